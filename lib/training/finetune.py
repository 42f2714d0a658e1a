"""Both fine-tuning approaches, on `transformers.Trainer` with batches of micro-batches."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from lib.config.arms import SET_THRESHOLDS
from lib.data.labels import LabelSpace
from lib.evaluation.metrics import Labels, decode_sets, f1_scores, tune_thresholds, without_luck
from lib.head.losses import HeadLoss
from lib.head.model import predict_logits
from lib.machine import mixed_precision
from lib.model.fast.attention import hidden_states, is_packed
from lib.model.fast.blocks import (
    checkpoint_layers,
    compiled_if_it_pays,
    first_adapted_layer,
    only_layers,
    reading_only,
)
from lib.model.logits import causal_lm, decoder_of, next_token_logits
from lib.model.memory import GIB, ROW_BYTES
from lib.prompt.decode import decode_labels
from lib.training.trainer import (
    DocumentTrainer,
    Evaluate,
    EvaluateEvery,
    Example,
    MicroBatchCollator,
    last_checkpoint,
    parameter_groups,
    spent_on_training,
)


def finetune_embedding(
    model: nn.Module,
    examples: Sequence[Example],
    evaluate: Evaluate,
    *,
    head_loss: HeadLoss,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train an `EmbeddingModel` (with or without adapters) on the loss of its head.

    Parameters
    ----------
    examples
        One mapping a training document: `id` str, `input_ids` list[int], `target` int, the label's
        index, or a list of them where a document may have several labels, or (C,) float32
        probabilities (`runs.distillation`); `lower`, optionally, its cached lower states.
    head_loss
        Summed over a document's labels where it may have several: with "cross_entropy", -log p of
        the label set if labels were independent.
    evaluate
        Validation metrics of the model, at least `micro_f1`; called after every epoch.
    options
        See `_finetune`.

    Returns
    -------
    history, resources
        A row per logged step (`step`, `epoch`, `loss`, `learning_rate`, `eval_*`), and
        `train_seconds` and `train_joules` (evaluation left out), `train_docs_per_second`,
        `train_tokens_per_second` (real tokens). The model holds the weights of the epoch that was
        best on validation.
    """

    def loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        lower = {"lower": batch["lower"]} if "lower" in batch else {}
        return model(
            batch["input_ids"], batch["attention_mask"], batch["targets"], head_loss, **lower
        )

    return _finetune(model, examples, loss, evaluate, **options)


def finetune_instruction(
    model: nn.Module,
    examples: Sequence[Example],
    evaluate: Evaluate,
    *,
    compute_dtype: torch.dtype,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train a causal language model on its answers: -log p(answer | prompt), end token included.

    The loss is the sum over a document's answer tokens and the mean over documents, so it is the
    cross-entropy of whole labels that `score_labels` ranks by. Logits are computed at answer
    positions alone.

    Parameters
    ----------
    examples
        As in `finetune_embedding`, but `input_ids` is prompt + answer, which `lower` covers, and
        `target` is the number of answer tokens at its end.

    Raises
    ------
    ValueError
        A document has no supervised token, or nothing but supervised tokens.
    """
    for example in examples:
        if not 0 < example["target"] < len(example["input_ids"]):
            raise ValueError(
                f"document {example['id']}: {example['target']} of {len(example['input_ids'])} "
                "tokens are supervised; it needs a prompt and an answer"
            )

    def loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        return -answer_log_probs(model, batch, compute_dtype).sum()

    answers = sum(sorted(e["target"] for e in examples)[-options["batch_size"] :])
    rows = min(answers, options["token_budget"])
    logits_gib = rows * causal_lm(model).config.get_text_config().vocab_size * ROW_BYTES / GIB
    return _finetune(model, examples, loss, evaluate, reserved_gib=logits_gib, **options)


def answer_log_probs(
    model: nn.Module, batch: Mapping[str, Any], compute_dtype: torch.dtype
) -> Tensor:
    """log p(token | tokens before) of every answer token in a right-padded micro-batch, 1-D fp32.

    `batch` holds `input_ids` and `attention_mask`, (B, T), and `targets`, (B,): how many of a row's
    last real tokens are its answer. With `lower`, (S, H) of all S real tokens, layers start from
    what `lib.model.fast.cached_layers` has kept.
    """
    base = causal_lm(model)
    decoder, input_ids = decoder_of(base), batch["input_ids"]
    if "lower" in batch:
        decoder = only_layers(decoder, range(first_adapted_layer(model), len(decoder.layers)))
    lengths = batch["attention_mask"].sum(dim=1, keepdim=True)  # (B, 1)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
    # The state at t predicts token t + 1: answers start one position early and end one early.
    before_answer = (positions >= lengths - 1 - batch["targets"][:, None]) & (
        positions < lengths - 1
    )
    with (
        mixed_precision(input_ids.device, compute_dtype),
        reading_only(decoder, before_answer[batch["attention_mask"].bool()]),
    ):
        (states,) = hidden_states(
            decoder, input_ids, batch["attention_mask"], inputs_embeds=batch.get("lower")
        )  # (B, T, H)
        logits = next_token_logits(base, states[before_answer])  # (answer tokens, V)
    following = input_ids.roll(-1, dims=1)[before_answer]
    return -nn.functional.cross_entropy(logits.float(), following, reduction="none")


def evaluate_embedding(
    model: nn.Module,
    *,
    documents: Sequence[Sequence[int]],
    y_true: Labels,
    multi_label: bool,
    may_be_empty: bool = False,
    **options: Any,
) -> dict[str, float]:
    """F1 scores of an `EmbeddingModel`; `y_true` is (N, C) bool.

    Of its best labels; where documents may have several, at the threshold that suits them best, by
    the study's rule on empty sets (`decode_sets`). The options are those of `predict_logits`.
    """
    logits = predict_logits(model, documents, **options)
    if not multi_label:
        return f1_scores(y_true, decode_sets(logits, np.inf))
    empty = {"may_be_empty": may_be_empty}
    threshold = tune_thresholds(y_true, logits, **empty)
    return f1_scores(y_true, decode_sets(logits, threshold, **empty))


def evaluate_instruction(
    model: nn.Module,
    *,
    label_space: LabelSpace,
    y_true: np.ndarray,
    strategy: str,
    multi_label: bool = False,
    **decoding: Any,
) -> dict[str, float]:
    """F1 scores and `out_of_set_rate` of what `decode_labels` answers; `y_true` is (N, C) bool.

    Scored label sets are judged at the threshold that suits them best, as in `evaluate_embedding`.
    """
    options = {"strategy": strategy, "multi_label": multi_label, **decoding}
    preds, scores = decode_labels(model, label_space=label_space, **options)
    answered = label_space.encode(preds)
    silent = np.array([len(labels) == 0 for labels in preds]) & bool(label_space.none)
    outside = ~answered.any(axis=1) & ~silent  # where sets may be empty, an empty one is an answer
    if multi_label and strategy in SET_THRESHOLDS:
        empty = {"may_be_empty": bool(label_space.none)}
        answered = decode_sets(scores, tune_thresholds(y_true, scores, **empty), **empty)
        outside &= False
    scores_of_labels = without_luck(f1_scores(y_true, answered), outside, y_true)
    return {"out_of_set_rate": float(outside.mean())} | scores_of_labels


def _finetune(
    model: nn.Module,
    examples: Sequence[Example],
    loss: Callable[[nn.Module, Mapping[str, Any]], Tensor],
    evaluate: Evaluate,
    *,
    output_dir: str | Path,
    pad_token_id: int,
    token_budget: int,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    head_learning_rate: float = 0.0,
    warmup_share: float = 0.0,
    weight_decay: float = 0.0,
    eval_steps: int = 0,
    memory_gib: float = 0.0,
    reserved_gib: float = 0.0,
    prepared: np.ndarray | float = 0.0,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train with AdamW, a linear schedule and gradients clipped to norm 1; resume if interrupted.

    Parameters
    ----------
    output_dir
        Checkpoints, one per epoch: the best and the last are kept. A checkpoint that is already
        there is resumed from; the result equals an uninterrupted run.
    token_budget
        Most tokens of a micro-batch (`lib.model.batches.micro_batches`).
    batch_size
        Documents per optimizer step.
    head_learning_rate
        Of a module called `head`; 0 for `learning_rate`.
    warmup_share
        Share of the steps over which the learning rate rises from 0.
    eval_steps
        Also evaluate every so many optimizer steps, for the curves alone; 0 for epochs only.
    memory_gib
        What the run should use; 0 for what the device has: see `checkpoint_layers`.
    reserved_gib
        What training takes beside the model and what its layers keep.
    prepared
        Seconds and joules spent on these documents before (cached layers, a teacher); they count as
        training.
    """
    steps_per_epoch = math.ceil(len(examples) / batch_size)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=num_epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(warmup_share * steps_per_epoch * num_epochs),
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="micro_f1",
        greater_is_better=True,
        logging_steps=max(1, steps_per_epoch // 20),
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        seed=seed,
        data_seed=seed,
        use_cpu=next(model.parameters()).device.type == "cpu",
    )
    # Of several GPUs one is used: the base class would split batches over all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    tokens = sum(len(e["input_ids"]) for e in examples) * num_epochs
    longest = sorted(len(e["input_ids"]) for e in examples)[-batch_size:]
    token_budget = checkpoint_layers(
        model,
        num_tokens=min(token_budget, sum(longest)),
        longest=longest[-1],
        memory_gib=memory_gib,
        reserved_gib=reserved_gib,
    )
    callback = EvaluateEvery(eval_steps)
    trainer = DocumentTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        eval_dataset=[],  # `evaluate` brings its own; the base class only asks whether there is one
        data_collator=MicroBatchCollator(token_budget, pad_token_id, packed=is_packed(model)),
        loss=loss,
        evaluate=evaluate,
        optimizers=(
            torch.optim.AdamW(
                parameter_groups(
                    model,
                    learning_rate=learning_rate,
                    head_learning_rate=head_learning_rate or learning_rate,
                    weight_decay=weight_decay,
                ),
                fused=True,
            ),
            None,
        ),
        callbacks=[callback] if eval_steps else [],
    )
    callback.trainer = trainer
    with compiled_if_it_pays(model, tokens):
        trainer.train(resume_from_checkpoint=last_checkpoint(Path(output_dir)))
    seconds, joules = prepared + spent_on_training(trainer.state.log_history)
    documents = len(examples) * num_epochs
    history = pd.DataFrame(trainer.state.log_history)
    resources = {
        "train_seconds": seconds,
        "train_joules": joules,
        "train_docs_per_second": documents / seconds,
        "train_tokens_per_second": tokens / seconds,
    }
    return history, resources
