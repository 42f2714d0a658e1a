"""`transformers.Trainer` on batches of micro-batches, with a loss per document."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer

from lib.errors import ModelError, NotFiniteError
from lib.machine import NO_COST, Cost, meter
from lib.model.adapters import copy_adapters
from lib.model.batches import join_states, micro_batches, pad
from lib.model.windows import count_windows, window_lengths
from lib.stopping import Stopped, StopRequest
from lib.storage import room_for
from lib.training import sharing
from lib.training.callbacks import epoch_steps
from lib.training.checkpoints import checkpoint_at

log = logging.getLogger(__name__)

Example = Mapping[str, Any]
Evaluate = Callable[[nn.Module], Mapping[str, float]]

SPENT = ("train_seconds", "train_joules")


def spent_on_training(log_history: Sequence[Mapping[str, Any]]) -> Cost:
    """Cost of training (seconds, joules) up to the last evaluation or checkpoint in the log."""
    rows = [[row[key] for key in SPENT] for row in log_history if SPENT[0] in row]
    return Cost(*rows[-1]) if rows else NO_COST


@dataclass
class MicroBatchCollator:
    """An optimizer batch as micro-batches cut by length under a token budget.

    Documents of a step are sampled at random first, and only then grouped by length. The lengths
    thus bias no step, while micro-batches bound memory and save padding. `packed` is true for a
    model that skips padding, whose micro-batches have up to `token_budget` real tokens.
    """

    token_budget: int
    pad_token_id: int
    packed: bool

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Padded tensors of each micro-batch of this process, and ids and number of all documents.

        A document of several windows has a row per window, and `windows` has their number.
        `collate_again` makes the same batch anew, under the budget of that moment.
        """
        lengths = [window_lengths(e["input_ids"]) for e in examples]
        own = sharing.own_share(list(map(sum, lengths)))
        cut = micro_batches([lengths[i] for i in own], self.token_budget, packed=self.packed)
        batches = []
        for rows in cut:
            chosen = [examples[own[i]] for i in rows]
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
            "num_own": len(own),
            "collate_again": partial(self, examples),
        }


class DocumentTrainer(Trainer):
    """`Trainer` with a loss per document, summed over micro-batches and divided by documents.

    Asked to stop, it saves a checkpoint of the last whole step. A run that resumes from it has the
    same documents, random numbers and evaluations, and so the same result.
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
        self._ids: list[str] = []  # of the documents of this step

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Mean loss of the documents of one optimizer batch; its gradient is accumulated.

        If a GPU's memory does not suffice, the step is computed again with smaller micro-batches of
        the same documents, and later steps keep the smaller size.

        Raises `NotFiniteError` if the loss is not finite, `ModelError` if a document by itself does
        not fit into the memory, and `Stopped` if the run was asked to stop and has saved a
        checkpoint.
        """
        self._start_clock()
        if sharing.any_asks(self._stop.asked):
            self._stop_here()
        model.train()
        self._ids = inputs["ids"]
        with sharing.own_random_numbers(self.args.device):
            random = sharing.random_state(self.args.device)
            while (total := self._backward(model, self._prepare_inputs(inputs), random)) is None:
                model.zero_grad(set_to_none=True)
                sharing.set_random_state(self.args.device, random)
                inputs = self._smaller(inputs)
        total = sharing.sum_gradients(total, model.parameters())
        self._require_finite("loss", total)
        return total

    def _backward(
        self, model: nn.Module, inputs: Mapping[str, Any], random: tuple[Tensor, ...]
    ) -> Tensor | None:
        """Mean loss, with its gradient accumulated; None where the memory did not suffice."""
        total = torch.zeros((), device=self.args.device)
        for batch in inputs["micro_batches"]:
            if self._stop.asked and sharing.count() == 1:  # as if the step had not begun
                sharing.set_random_state(self.args.device, random)
                self._stop_here()
            try:
                loss = self._loss(model, batch) / inputs["num_documents"]
                self.accelerator.backward(loss)
            except torch.OutOfMemoryError:
                return None
            total += loss.detach()
        return total

    def _smaller(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The same documents under a lower token budget, halved until there are more micro-batches.

        The budget stays if the batch was cut before an earlier step lowered it.
        """
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        before, collator = len(inputs["micro_batches"]), self.data_collator
        if before == inputs["num_own"]:
            raise ModelError(
                f"step {self.state.global_step + 1}: the memory does not suffice for one document; "
                "lower max_length, windows, lora_layers or memory_gib"
            )
        inputs = inputs["collate_again"]()
        while len(inputs["micro_batches"]) == before:
            collator.token_budget //= 2
            inputs = inputs["collate_again"]()
        log.warning("step %d: out of memory; repeated with micro-batches of %d tokens",
                    self.state.global_step + 1, collator.token_budget)  # fmt: skip
        step = {"step": self.state.global_step, "epoch": self.state.epoch}
        self.state.log_history.append(step | {"token_budget": collator.token_budget})
        return inputs

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Norm of the gradient before it is clipped; refused if it is not finite."""
        norm = super()._clip_grad_norm(model)
        self._require_finite("gradient's norm", norm)
        return norm

    def _require_finite(self, name: str, value: Tensor) -> None:
        if not math.isfinite(value):
            raise NotFiniteError(
                f"the {name} is {float(value)} at step {self.state.global_step + 1}, documents "
                f"{', '.join(self._ids)}, learning rate {self._get_learning_rate():.1e}; lower "
                "learning_rate, or look at these documents"
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validation metrics, logged as `eval_*`, without drawing random numbers."""

        def measure() -> Mapping[str, float]:
            with self._stop.breaking_off():
                return self._evaluate_model(self.model)

        self._start_clock()
        start = meter(self.args.device)
        try:
            metrics = sharing.from_first(measure)
        except Stopped:
            self._stop_here()
        metrics = {f"eval_{key}": value for key, value in metrics.items()}
        self.model.train()
        self._log_beside(metrics, start - self._clock)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._clock += meter(self.args.device) - start
        return metrics

    def _log_beside(self, metrics: Mapping[str, float], spent: Cost) -> None:
        """Log metrics and the cost so far, beside the step's loss.

        Logging clears the flag by which the base class logs that loss; it is set again.
        """
        should_log = self.control.should_log
        self.log({**metrics, **dict(zip(SPENT, spent, strict=True))})
        self.control.should_log = should_log

    def evaluate_if_due(self, eval_steps: int) -> None:
        """Evaluate first if a run that is resumed was stopped before or in a due evaluation."""
        step = self.state.global_step
        done = any(row["step"] == step and "eval_micro_f1" in row for row in self.state.log_history)
        if not step or done:
            return
        if step % epoch_steps(self.state) == 0:
            if self._determine_best_metric(self.evaluate(), None):
                self.state.best_model_checkpoint = str(self._checkpoint)
        elif eval_steps and step % eval_steps == 0:
            self.evaluate()

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = meter(self.args.device) - spent_on_training(self.state.log_history)
            if sharing.count() > 1 and self.args.device.type == "cuda":
                self._clock = Cost(self._clock.seconds, math.nan)  # of one GPU of several

    @property
    def _checkpoint(self) -> Path:
        """Folder of this step's checkpoint."""
        return checkpoint_at(self.args.output_dir, self.state.global_step)

    def _stop_here(self) -> NoReturn:
        """Save a checkpoint unless this step has one, and raise `Stopped`."""
        step, steps = self.state.global_step, self.state.max_steps
        if sharing.is_first() and step and not self._checkpoint.exists():
            self._save_checkpoint(self.model, None)
            self.callback_handler.on_save(self.args, self.state, self.control)
        sharing.wait_for_all()
        raise Stopped(f"stopped at step {step} of {steps}; run it again to go on") from None

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if isinstance(self.model, PeftModel):
            copy_adapters(self.model, self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, *args: Any, **options: Any) -> None:
        super()._load_from_checkpoint(*args, **options)
        if isinstance(self.model, PeftModel) and not self.is_fsdp_enabled:
            copy_adapters(self.model, args[0])

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint, in the first process; its state has the cost of training up to it."""
        if not sharing.is_first():
            return
        history = self.state.log_history
        if not any(row["step"] == self.state.global_step and SPENT[0] in row for row in history):
            self._log_beside({}, meter(self.args.device) - self._clock)
        with room_for(self._checkpoint):
            super()._save_checkpoint(model, trial)

    def floating_point_ops(self, inputs: Any) -> int:
        """Zero: the base class would count tokens of plain batches, which these are not."""
        return 0


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Trainable weights, grouped by learning rate and decay, as AdamW takes them.

    Weights of a head have `head_learning_rate`. Biases and norms, which have one dimension, do not
    decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = head_learning_rate if "head" in name.split(".") else learning_rate
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in groups.items()]
