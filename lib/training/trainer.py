"""`transformers.Trainer` on batches of micro-batches, with a loss per document."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from lib.machine import Cost, meter
from lib.model.batches import join_states, micro_batches, pad
from lib.model.windows import count_windows, window_lengths
from lib.stopping import Stopped, StopRequest
from lib.training.checkpoints import checkpoint_at

Example = Mapping[str, Any]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


SPENT = ("train_seconds", "train_joules")


def spent_on_training(log_history: Sequence[Mapping[str, Any]]) -> Cost:
    """Cost of training up to the last evaluation or checkpoint."""
    rows = [[row[key] for key in SPENT] for row in log_history if SPENT[0] in row]
    return Cost(*rows[-1]) if rows else Cost()


class MicroBatchCollator:
    """An optimizer batch as micro-batches cut by length under a token budget.

    Documents are sampled at random first and only then grouped by length: length biases no step,
    while micro-batches bound memory and save padding.
    """

    def __init__(self, token_budget: int, pad_token_id: int, *, packed: bool) -> None:
        self.token_budget = token_budget
        self.pad_token_id = pad_token_id
        self.packed = packed

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Padded tensors of each micro-batch, the ids of all documents and their number.

        A document of several windows has a row per window, and `windows` is their number.
        """
        batches = []
        lengths = [window_lengths(e["input_ids"]) for e in examples]
        for rows in micro_batches(lengths, self.token_budget, packed=self.packed):
            chosen = [examples[i] for i in rows]
            documents = [e["input_ids"] for e in chosen]
            input_ids, mask = pad(documents, self.pad_token_id)
            targets = [e["target"] for e in chosen]
            if isinstance(targets[0], list):  # label sets, filled up with -1
                targets, _ = pad(targets, -1)
            elif isinstance(targets[0], np.ndarray):  # a probability per label
                targets = np.stack(targets)
            targets = torch.as_tensor(targets)
            batch = {"input_ids": input_ids, "attention_mask": mask, "targets": targets}
            if (windows := count_windows(documents)) is not None:
                batch["windows"] = windows
            if "cached_states" in chosen[0]:
                batch["cached_states"] = join_states([e["cached_states"] for e in chosen])
            batches.append(batch)
        return {
            "micro_batches": batches,
            "ids": [e["id"] for e in examples],
            "num_documents": len(examples),
        }


class DocumentTrainer(Trainer):
    """`Trainer` with a loss per document, summed over micro-batches and divided by documents.

    Asked to stop, it saves a checkpoint as of the last whole step, from which a resumed run goes on
    to the same result: with the same documents, random numbers and evaluations.
    """

    def __init__(
        self,
        *,
        loss: Callable[[nn.Module, Mapping[str, Any]], Tensor],
        evaluate: Evaluate,
        stop: StopRequest,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._stop = stop
        self._loss = loss
        self._evaluate_model = evaluate
        # The cost of training is `meter() - _clock`: evaluation and interruptions are left out.
        self._clock: Cost | None = None

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Mean loss of the documents of one optimizer batch, whose gradient is accumulated.

        Raises
        ------
        FloatingPointError
            The loss is not finite; names the step, the documents and the learning rate.
        Stopped
            The run was asked to stop, and has saved a checkpoint.
        """
        self._start_clock()
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        random = _random_state(self.args.device)
        for batch in inputs["micro_batches"]:
            if self._stop.asked:  # as if the step had not begun
                _set_random_state(self.args.device, random)
                self._stop_here()
            loss = self._loss(model, batch) / inputs["num_documents"]
            self.accelerator.backward(loss)
            total += loss.detach()
        if not math.isfinite(total.item()):
            raise FloatingPointError(
                f"loss is {total.item()} at step {self.state.global_step + 1}, documents "
                f"{', '.join(inputs['ids'])}, learning rate {self._get_learning_rate():.1e}"
            )
        return total

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validation metrics, logged as `eval_*`, without drawing random numbers."""
        self._start_clock()
        start = meter(self.args.device)
        try:
            with self._stop.breaking_off():
                metrics = self._evaluate_model(self.model)
        except Stopped:
            self._stop_here()
        metrics = {f"eval_{key}": value for key, value in metrics.items()}
        self.model.train()
        self.log(metrics | dict(zip(SPENT, start - self._clock, strict=True)))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._clock += meter(self.args.device) - start
        return metrics

    def evaluate_if_due(self, eval_steps: int) -> None:
        """Evaluate first where a run that is resumed was stopped before or in an evaluation."""
        step, epoch_steps = self.state.global_step, _epoch_steps(self.state)
        done = any(row["step"] == step and "eval_micro_f1" in row for row in self.state.log_history)
        if not step or done:
            return
        if step % epoch_steps == 0:
            if self._determine_best_metric(self.evaluate(), None):
                self.state.best_model_checkpoint = str(self._checkpoint)
        elif eval_steps and step % eval_steps == 0:
            self.evaluate()

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = meter(self.args.device) - spent_on_training(self.state.log_history)

    @property
    def _checkpoint(self) -> Path:
        """Folder of this step's checkpoint."""
        return checkpoint_at(self.args.output_dir, self.state.global_step)

    def _stop_here(self) -> NoReturn:
        """Save a checkpoint unless this step has one, and stop."""
        step, steps = self.state.global_step, self.state.max_steps
        if step and not self._checkpoint.exists():
            self._save_checkpoint(self.model, None)
            self.callback_handler.on_save(self.args, self.state, self.control)
        raise Stopped(f"stopped at step {step} of {steps}; run it again to go on") from None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint whose state has the cost of training up to it."""
        history = self.state.log_history
        if not any(row["step"] == self.state.global_step and SPENT[0] in row for row in history):
            spent = meter(self.args.device) - self._clock
            should_log = self.control.should_log
            self.log(dict(zip(SPENT, spent, strict=True)))
            self.control.should_log = should_log  # else the step's loss would pass for logged
        super()._save_checkpoint(model, trial)

    def floating_point_ops(self, inputs: Any) -> int:
        """Zero: the base class would count on plain batches."""
        return 0


class EvaluateEvery(TrainerCallback):
    """Evaluation between epochs, for the curves alone: only epochs can be the best."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.trainer: DocumentTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate every `steps` optimizer steps."""
        if state.global_step % self.steps == 0:
            should_log = control.should_log
            self.trainer.evaluate()
            control.should_log = should_log  # else the step's loss would pass for logged


class EvaluateFirst(TrainerCallback):
    """The evaluation before or in which a run was stopped that is resumed now."""

    def __init__(self, eval_steps: int) -> None:
        self.eval_steps = eval_steps
        self.trainer: DocumentTrainer | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Evaluate where the state has been loaded and nothing is trained yet."""
        self.trainer.evaluate_if_due(self.eval_steps)


class SaveEvery(TrainerCallback):
    """Checkpoints within epochs; each epoch's end has its own, after its evaluation."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save every `steps` optimizer steps."""
        if state.global_step % self.steps == 0 and state.global_step % _epoch_steps(state):
            control.should_save = True


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


def _epoch_steps(state: Any) -> int:
    return state.max_steps // state.num_train_epochs


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Of the generators that dropout draws from."""
    cuda = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *cuda)


def _set_random_state(device: torch.device, state: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Trainable weights, grouped by learning rate and decay; biases and norms do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = head_learning_rate if "head" in name.split(".") else learning_rate
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in groups.items()]
