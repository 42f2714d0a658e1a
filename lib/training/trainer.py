"""`transformers.Trainer` on batches of micro-batches, with a loss per document."""

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lib.machine import Cost, meter
from lib.model.batches import join_states, micro_batches, pad
from lib.model.windows import count_windows, window_lengths
from lib.storage import find_fault, read_json, write_checksums

log = logging.getLogger(__name__)

Example = Mapping[str, Any]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


SPENT = ("train_seconds", "train_joules")


def spent_on_training(log_history: Sequence[Mapping[str, Any]]) -> Cost:
    """Cost of training up to the last evaluation."""
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
    """`Trainer` with a loss per document, summed over micro-batches and divided by documents."""

    def __init__(
        self,
        *,
        loss: Callable[[nn.Module, Mapping[str, Any]], Tensor],
        evaluate: Evaluate,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        """
        if self._clock is None:
            self._clock = meter(self.args.device) - spent_on_training(self.state.log_history)
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        for batch in inputs["micro_batches"]:
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
        start = meter(self.args.device)
        metrics = {f"eval_{key}": value for key, value in self._evaluate_model(self.model).items()}
        self.model.train()
        self.log(metrics | dict(zip(SPENT, start - self._clock, strict=True)))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._clock += meter(self.args.device) - start
        return metrics

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


class StopAfter(TrainerCallback):
    """The end of training after some epochs of a longer schedule, to be resumed or given up."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the epochs are over; the checkpoint of the last one is still written."""
        if round(state.epoch) >= self.epochs:
            control.should_training_stop = True


class KeepWhole(TrainerCallback):
    """Checkpoints that are whole, or are none: the last one and the best.

    A checkpoint gets its manifest when all else is written; older ones go only then. The best one
    is found beside the others, wherever the run's folder has been moved.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Point to the best checkpoint of this folder."""
        if state.best_global_step:
            best = checkpoint_at(args.output_dir, state.best_global_step)
            state.best_model_checkpoint = str(best)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the checkpoint of this step and remove those that nothing resumes from."""
        last = checkpoint_at(args.output_dir, state.global_step)
        write_checksums(last, {file.name: file for file in sorted(last.iterdir())})
        keep = {state.global_step, state.best_global_step}
        for step, folder in checkpoints_of(Path(args.output_dir)):
            if step not in keep:
                shutil.rmtree(folder, ignore_errors=True)


def checkpoint_at(folder: str | Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoints_of(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all checkpoints, the last step first, whatever their files' times."""
    found = [(path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"), path) for path in
             folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]  # fmt: skip
    return sorted(((int(step), path) for step, path in found if step.isdecimal()), reverse=True)


def last_checkpoint(folder: Path) -> str | None:
    """Folder of the last whole checkpoint, or None; others are named and removed.

    A checkpoint is whole if its files are those of its manifest, which is written last, and if the
    best checkpoint before it is whole.
    """
    for _, checkpoint in checkpoints_of(folder):
        fault = find_fault(checkpoint)
        if not fault:
            best = read_json(checkpoint / TRAINER_STATE_NAME).get("best_global_step")
            fault = find_fault(checkpoint_at(folder, best)) if best else ""
        if not fault:
            return str(checkpoint)
        log.warning("%s: %s; training goes on from the checkpoint before it, if there is one",
                    checkpoint, fault)  # fmt: skip
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


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
