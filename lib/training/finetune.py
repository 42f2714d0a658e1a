"""Both fine-tuning approaches, on `transformers.Trainer` with batches of micro-batches."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments

from lib.config.arms import EmbeddingParams, FinetuneParams, InstructionParams
from lib.head.losses import HeadLoss
from lib.machine import GIB, NO_COST, Cost, meter
from lib.model.forward import last_hidden_states, maybe_compiled, next_token_logits, skips_padding
from lib.model.memory import ROW_BYTES, fit_into_memory
from lib.model.parts import pretrained
from lib.model.windows import window_lengths
from lib.stopping import noting_signals
from lib.training.callbacks import EpochsOver, EvaluateBetween, SaveBetween, ShowProgress, StopAfter
from lib.training.checkpoints import KeepWhole, last_checkpoint
from lib.training.sharing import count, from_first, is_first
from lib.training.trackers import reporting, run_name
from lib.training.trainer import (
    SPENT,
    DocumentTrainer,
    Evaluate,
    Example,
    MicroBatchCollator,
    parameter_groups,
    spent_on_training,
)

TRAIN_RESOURCES = (*SPENT, "train_docs_per_second", "train_tokens_per_second")


def finetune_embedding(
    model: nn.Module,
    examples: Sequence[Example],
    evaluate: Evaluate,
    params: EmbeddingParams,
    *,
    head_loss: HeadLoss,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train an `EmbeddingModel` (with or without adapters) on the loss of its head.

    Parameters
    ----------
    examples
        One mapping per training document: `id` str; `input_ids` list[int]; `target` int, the
        label's index, or a list of them for label sets, or (C,) float32 probabilities.
    evaluate
        Validation metrics of the model, at least `micro_f1`; called after every epoch.
    options
        See `_finetune`.

    Returns
    -------
    history, resources
        One row per logged step (`step`, `epoch`, `loss`, `learning_rate`, `eval_*`), and the
        `TRAIN_RESOURCES`: seconds and joules of training without evaluation, and documents and
        tokens per second, without padding. Afterwards the model has the weights of the epoch that
        was best on validation; in one of several processes, and with `stop_epochs`, it need not.
    """

    def loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        inputs = (batch["input_ids"], batch["attention_mask"], batch["targets"])
        return model.loss(*inputs, head_loss, batch.get("cached_states"), batch.get("windows"))

    return _finetune(model, examples, loss, evaluate, params, **options)


def finetune_instruction(
    model: nn.Module,
    examples: Sequence[Example],
    evaluate: Evaluate,
    params: InstructionParams,
    *,
    compute_dtype: torch.dtype,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train a causal language model on its answers: -log p(answer | prompt), end token included.

    The loss (`answer_loss`) is summed over a document's answer tokens and averaged over documents.
    It is thus the cross-entropy of whole labels, by which `score_labels` ranks them. What is
    returned is as in `finetune_embedding`; with `num_epochs: 0` nothing is trained.

    Parameters
    ----------
    examples
        As in `finetune_embedding`, but `input_ids` is prompt + answer, and `target` the number of
        answer tokens at its end (of several windows, at the end of each). An example without a
        prompt or without an answer is a `ValueError`.
    """
    if not params.num_epochs:  # zero-shot
        return pd.DataFrame({"step": []}), dict.fromkeys(TRAIN_RESOURCES, 0.0) | {
            "train_joules": 0 * meter(pretrained(model).device).joules  # NaN without a counter
        }
    for example in examples:
        shortest = min(window_lengths(example["input_ids"]))
        if not 0 < example["target"] < shortest:
            raise ValueError(
                f"document {example['id']}: {example['target']} of {shortest} "
                "tokens are supervised; it needs a prompt and an answer"
            )

    # Memory of the logits: most rows over the vocabulary in a micro-batch.
    answers = sorted(e["target"] * len(window_lengths(e["input_ids"])) for e in examples)
    rows = min(sum(answers[-params.batch_size :]), params.token_budget)
    logits_gib = rows * pretrained(model).config.get_text_config().vocab_size * ROW_BYTES / GIB
    loss = partial(answer_loss, compute_dtype=compute_dtype)
    return _finetune(model, examples, loss, evaluate, params, reserved_gib=logits_gib, **options)


def answer_loss(model: nn.Module, batch: Mapping[str, Any], compute_dtype: torch.dtype) -> Tensor:
    """-log p(answer | prompt), summed over documents; a document's windows are averaged.

    `batch` is that of `answer_log_probs`. It may have `windows`, (D,), the number of rows of each
    of D documents; `targets` is then (D,), too.
    """
    windows = batch.get("windows")
    if windows is None:
        return -answer_log_probs(model, batch, compute_dtype).sum()
    targets = batch["targets"].repeat_interleave(windows)  # (B,)
    log_probs = answer_log_probs(model, {**batch, "targets": targets}, compute_dtype)
    shares = (1 / windows).repeat_interleave(windows).repeat_interleave(targets)
    return -(log_probs * shares).sum()


def answer_log_probs(
    model: nn.Module, batch: Mapping[str, Any], compute_dtype: torch.dtype
) -> Tensor:
    """log p(token | tokens before) of all answer tokens of a right-padded micro-batch, 1-D fp32.

    `batch` has `input_ids` and `attention_mask`, (B, T); `targets`, (B,), the number of answer
    tokens at the end of each row; optionally `cached_states`, (S, H) of all S real tokens.
    """
    input_ids = batch["input_ids"]
    lengths = batch["attention_mask"].sum(dim=1, keepdim=True)  # (B, 1)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
    # The state at t predicts token t + 1: answers start one position early and end one early.
    from_end = lengths - 1 - positions  # (B, T)
    before_answer = (from_end > 0) & (from_end <= batch["targets"][:, None])
    states = last_hidden_states(
        model,
        input_ids,
        batch["attention_mask"],
        compute_dtype=compute_dtype,
        read=before_answer,
        cached=batch.get("cached_states"),
    )  # (B, T, H)
    logits = next_token_logits(model, states[before_answer], compute_dtype)  # (answer tokens, V)
    following = input_ids.roll(-1, dims=1)[before_answer]
    return -nn.functional.cross_entropy(logits.float(), following, reduction="none")


def _finetune(
    model: nn.Module,
    examples: Sequence[Example],
    loss: Callable[[nn.Module, Mapping[str, Any]], Tensor],
    evaluate: Evaluate,
    params: FinetuneParams,
    *,
    output_dir: str | Path,  # checkpoints, per epoch and every `save_steps`
    cached: Sequence[np.ndarray] = (),  # (T, H) states below the first adapted layer, per example
    setup_cost: Cost = NO_COST,  # before training (cached layers, a teacher); counts as training
    num_documents: int = 0,  # where examples are questions about them; 0: as many as examples
    stop_epochs: int = 0,  # epochs after which training stops, to be resumed later; 0: none
    reserved_gib: float = 0.0,  # memory for other than the model and what its layers keep
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train with AdamW, a linear schedule and gradients clipped to norm 1.

    The best and the last checkpoint are kept. If there is a checkpoint, training resumes from it;
    the result equals that of an uninterrupted run.
    """
    if len(cached):
        examples = [e | {"cached_states": x} for e, x in zip(examples, cached, strict=True)]
    tokens = sum(len(e["input_ids"]) for e in examples) * params.num_epochs

    # Micro-batches and checkpointed layers, so that the largest optimizer batch fits into memory.
    longest = sorted(len(e["input_ids"]) for e in examples)[-params.batch_size :]
    batch_tokens = fit_into_memory(
        model,
        num_tokens=min(params.token_budget, sum(longest)),
        longest=longest[-1],
        memory_gib=params.memory_gib,
        reserved_gib=reserved_gib,
    )
    pad_token_id = pretrained(model).config.pad_token_id
    budget = min(batch_tokens, params.token_budget)
    collator = MicroBatchCollator(budget, pad_token_id, packed=skips_padding(model))

    # Training, from the last checkpoint if there is one.
    groups = parameter_groups(
        model,
        learning_rate=params.learning_rate,
        head_learning_rate=getattr(params, "head_learning_rate", 0.0) or params.learning_rate,
        weight_decay=params.weight_decay,
    )
    between = EvaluateBetween(params.eval_steps)
    callbacks = [ShowProgress()] if is_first() else []
    callbacks += [between, SaveBetween(params.save_steps)]
    callbacks += [StopAfter(stop_epochs)] if stop_epochs else []
    callbacks += [KeepWhole()] if is_first() else []
    device = next(model.parameters()).device
    with (
        noting_signals() as stop,
        maybe_compiled(model, tokens // count()),
        reporting(params, output_dir) as trackers,
    ):
        trainer = DocumentTrainer(
            model=model,
            args=_training_arguments(params, output_dir, len(examples), device),
            train_dataset=examples,
            eval_dataset=[],  # `evaluate` brings its own; the base class asks if there is one
            data_collator=collator,
            loss=loss,
            evaluate=evaluate,
            stop=stop,
            optimizers=(torch.optim.AdamW(groups, fused=True), None),
            callbacks=[*callbacks, *trackers],
        )
        trainer.remove_callback(PrinterCallback)  # see `ShowProgress`
        between.trainer = trainer
        with contextlib.suppress(EpochsOver):
            last = from_first(lambda: last_checkpoint(Path(output_dir)))
            trainer.train(resume_from_checkpoint=last)

    # What it has cost.
    cost = setup_cost + spent_on_training(trainer.state.log_history)
    documents = (num_documents or len(examples)) * params.num_epochs
    rates = (documents / cost.seconds, tokens / cost.seconds)  # of the whole schedule
    resources = dict(zip(TRAIN_RESOURCES, (*cost, *rates), strict=True))
    return pd.DataFrame(trainer.state.log_history), resources


def _training_arguments(
    params: FinetuneParams, output_dir: str | Path, num_examples: int, device: torch.device
) -> TrainingArguments:
    steps_per_epoch = math.ceil(num_examples / params.batch_size)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=params.num_epochs,
        per_device_train_batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(params.warmup_share * steps_per_epoch * params.num_epochs),
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=None,  # see `KeepWhole`
        load_best_model_at_end=count() == 1,  # of several processes only checkpoints are used
        metric_for_best_model="micro_f1",
        greater_is_better=True,
        logging_steps=max(1, steps_per_epoch // 20),
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",  # see `reporting`
        run_name=run_name(params, output_dir),
        disable_tqdm=True,
        seed=params.seed,
        data_seed=params.seed,
        use_cpu=device.type == "cpu",
    )
    # A process uses one GPU: the base class would split batches over all that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
