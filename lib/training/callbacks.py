"""Callbacks of a training: evaluations, checkpoints, progress, and an early end."""

import logging
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from lib.machine import shows_bars

log = logging.getLogger(__name__)

LINE_EVERY = 60  # seconds between lines on the loss, without a progress bar (our choice)


class EvaluateBetween(TrainerCallback):
    """Evaluations between those of epochs: every `steps` optimizer steps, for the curves alone.

    With 0 `steps` there are none. A resumed run begins with the evaluation, of an epoch or between
    epochs, that was due when it was stopped.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.trainer: Trainer | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Evaluate if it is due: here the state is loaded, and nothing is trained yet."""
        self.trainer.evaluate_if_due(self.steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate, apart from the choice of the best epoch."""
        if _is_due(state, self.steps):
            self.trainer.evaluate()


class SaveBetween(TrainerCallback):
    """Checkpoints every `steps` optimizer steps; each epoch's end has its own."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save a checkpoint."""
        if _is_due(state, self.steps):
            control.should_save = True


def _is_due(state: Any, steps: int) -> bool:
    """True every `steps` steps, but not at the end of an epoch, which comes anyway; 0: never."""
    step = state.global_step
    return bool(steps) and step % steps == 0 and step % epoch_steps(state) != 0


class ShowProgress(TrainerCallback):
    """A bar if someone looks on; else a line per evaluation, and one per minute in between."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar at the step from which training begins or goes on."""
        self._line = time.monotonic()
        done = {"initial": state.global_step, "total": state.max_steps}
        self._bar = tqdm(**done, desc="steps", leave=False, disable=not shows_bars())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar by a step."""
        self._bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict, **_: Any) -> None:
        """Show a validation score or, if the time has come, the loss."""
        f1, loss = logs.get("eval_micro_f1"), logs.get("loss")
        if f1 is None and (loss is None or time.monotonic() - self._line < LINE_EVERY):
            return
        news = f"loss {loss:.4g}" if f1 is None else f"micro-F1 {f1:.3f} on validation"
        self._bar.set_postfix_str(news)
        if self._bar.disable:
            log.info("step %d of %d: %s", state.global_step, state.max_steps, news)
            self._line = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Remove the bar."""
        self._bar.close()


class EpochsOver(Exception):
    """The epochs of `StopAfter` were over before a resumed run trained anything."""


class StopAfter(TrainerCallback):
    """The end of training after some epochs of a longer schedule, to be resumed or given up."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise `EpochsOver` if the epochs are over in the checkpoint that is resumed from."""
        if state.epoch and state.epoch >= self.epochs:
            raise EpochsOver

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the epochs are over; the checkpoint of the last one is still written."""
        if round(state.epoch) >= self.epochs:
            control.should_training_stop = True


def epoch_steps(state: Any) -> int:
    """Optimizer steps of an epoch."""
    return state.max_steps // state.num_train_epochs
