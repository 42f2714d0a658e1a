"""Seconds, memory and cost of each arm of a study, estimated before it is run.

Documents are read and tokenized as the arms will read them; weights are not loaded.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.config.arms import BaselineParams, InstructionParams, StudyParams
from lib.config.study import load_params, load_study, study_files, study_runs
from lib.data.labels import LabelSpace
from lib.data.load import load_splits, take_train
from lib.machine import GIB, choose_device, choose_dtype
from lib.model import memory
from lib.model.memory import Shape
from lib.model.weights import load_config
from lib.model.windows import window_lengths
from lib.prompt.answers import answer_texts
from lib.prompt.label_trie import LabelTrie
from lib.prompt.template import NO, YES, PromptTemplate, build_template
from lib.runs import reading
from lib.runs.rates import Machine, measure_machine
from lib.runs.search import trained_epochs
from lib.storage import ROOT, read_json

log = logging.getLogger(__name__)

ANSWER_TOKENS = 8  # of a free answer beyond the longest label (our choice)

# Room that a batch job is given beside its estimate (our choices).
SPARE_GIB, SPARE_SECONDS, SLACK = 4.0, 900, 2.0


@dataclass(frozen=True)
class Work:
    """Tokens that an arm computes."""

    train: list[tuple[int, ...]]  # of each window of each training example, once per epoch
    held_out: list[int]  # of each sequence of test, and of validation once per evaluation
    answer_tokens: int = 0  # most positions of a micro-batch with a loss over the vocabulary
    num_epochs: int = 0  # 0: the model is not trained


def plan(
    folder: str | Path, *, machine: Machine, price: float = 0.0, **overrides: Any
) -> pd.DataFrame:
    """Estimates, one row per arm of a study's params folder, or per arm and training size.

    Raises `InputError` if parameters, data or a model's config cannot be read.

    Parameters
    ----------
    machine
        From `lib.runs.rates.GPUS`, or measured by `measure_this_machine`. For arms of another
        dtype this machine is measured again; another one keeps its rates, with a warning.
    price
        Of the machine per hour, in any currency.
    overrides
        Parameters that win over what the files say.

    Returns
    -------
    DataFrame
        `arm`; `train_seconds` and `infer_seconds` of one seed, the latter for validation after each
        epoch and at the end, and for test; `nf4_share`, the share of weights in 4 bits;
        `peak_memory_gib` and `fits`, true if the arm's memory suffices; `hours` of all seeds;
        `cost`, if there is a price; `num_processes`, if any arm has several; and, if `machine` is
        this one and seed 0 has been run on such a device with as many threads,
        `measured_train_seconds` and `measured_peak_gib`.
        Estimates of TF-IDF are NaN.
    """
    rows = []
    arms = load_study(folder, **overrides)
    splits = load_splits(next(iter(arms.values())))  # the same documents for all arms
    machines = {"auto": machine}
    for name, run in study_runs(arms.values()).items():
        if (dtype := getattr(run, "dtype", "auto")) not in machines:
            study = load_params(*study_files(folder).common, **overrides)
            machines[dtype] = _in_dtype(machine, study, dtype)
        row = {"arm": name, "num_processes": 1} | _estimate(run, machines[dtype], splits)
        hours = (row["train_seconds"] + row["infer_seconds"]) * len(run.seeds) / 3600
        row |= {"hours": hours, "cost": price * hours}
        record = run.run_dir / "resources.json"
        if machine.name == "this machine" and record.is_file():
            try:
                measured = read_json(record)
                # TF-IDF, which has no estimate, runs on CPUs everywhere.
                device = "cpu" if math.isnan(row["train_seconds"]) else machine.device
                here = {"device": device, "num_threads": run.threads}
                if all(measured.get(key, value) == value for key, value in here.items()):
                    row["measured_train_seconds"] = measured["train_seconds"]
                    row["measured_peak_gib"] = measured["peak_memory_gib"]
            except (ValueError, TypeError, LookupError, AttributeError):
                log.warning("%s: damaged; run the arm again to measure it", record)
        rows.append(row)
    table = pd.DataFrame(rows)
    if not price:
        del table["cost"]
    if (table["num_processes"] == 1).all():
        del table["num_processes"]
    return table


def job_resources(table: pd.DataFrame, machine: Machine) -> pd.DataFrame:
    """Resources that a batch system reserves for each row of a `plan` and one seed.

    Columns are `arm`, `mem_mb` (MiB of the host), `runtime` (minutes) and `gpu` (number of GPUs). A
    job that exceeds its time is stopped, and another one resumes it.
    """
    seconds = (table["train_seconds"] + table["infer_seconds"]).fillna(0)
    gpus = table["peak_memory_gib"].notna() * (machine.device == "cuda")
    gpus = gpus * table.get("num_processes", 1)
    gib = table["peak_memory_gib"].fillna(0) * np.maximum(gpus, 1) + SPARE_GIB
    return pd.DataFrame(
        {
            "arm": table["arm"],
            "mem_mb": np.ceil(1024 * gib).astype(int),
            "runtime": np.ceil((SLACK * seconds + SPARE_SECONDS) / 60).astype(int),
            "gpu": gpus.astype(int),
        }
    )


def plan_here(params: StudyParams, *, seconds: float) -> pd.DataFrame:
    """The `plan` of the study `params.study`, by rates of this machine, measured for `seconds`.

    Empty if there is no folder of that study's parameters.
    """
    folder = ROOT / params.params_dir / params.study
    if not folder.is_dir():
        return pd.DataFrame()
    return plan(folder, machine=measure_this_machine(params, seconds=seconds))


def measure_this_machine(
    study: StudyParams, *, seconds: float = 20.0, dtype: str = "auto"
) -> Machine:
    """Rates of this machine, measured for `seconds` on matrix products of the study's model."""
    device = choose_device(study.device)
    shape = Shape.from_config(load_config(study.model_id, study.model_revision))
    compute = choose_dtype(device, dtype)
    return measure_machine(shape, device=device, dtype=compute, seconds=seconds)


def _in_dtype(machine: Machine, study: StudyParams, dtype: str) -> Machine:
    """The machine at its rates in a dtype, with a warning if they are not known."""
    if (itemsize := getattr(torch, dtype).itemsize) == machine.itemsize:
        return machine
    if machine.name == "this machine":
        return measure_this_machine(study, seconds=5.0, dtype=dtype)
    log.warning("%s: its rates in %s are not known; seconds and cost are those of another dtype",
                machine.name, dtype)  # fmt: skip
    return replace(machine, itemsize=itemsize)


def _estimate(params: StudyParams, machine: Machine, splits: DatasetDict) -> dict[str, Any]:
    """The columns of one arm's row that depend neither on the number of seeds nor on the price."""
    if isinstance(params, BaselineParams) and params.method == "tfidf":
        return dict.fromkeys(("train_seconds", "infer_seconds", "peak_memory_gib"), float("nan"))
    depth = getattr(params, "depth", 0)
    config = load_config(params.model_id, params.model_revision, depth=depth)
    shape = Shape.from_config(config)
    tokenizer = reading.tokenizer_of(params)
    work = _count_work(params, config, tokenizer, splits)
    peak_gib, limit_gib, checkpointed = _estimate_memory(params, shape, machine, work)
    r = getattr(params, "lora_r", 0)
    quantizable = shape.linear_params / (shape.linear_params + shape.embedding_params)
    # Several processes have a GPU each, or the cores and the memory of one machine together.
    processes = getattr(params, "num_processes", 1) if work.num_epochs else 1
    gpus = processes if machine.device == "cuda" else 1
    peak_gib *= processes / gpus
    return {
        "num_processes": processes,
        "train_seconds": _train_seconds(params, shape, machine, work, checkpointed) / gpus,
        "infer_seconds": machine.infer_seconds(shape, work.held_out, r=r if work.num_epochs else 0),
        "nf4_share": quantizable if params.quantization == "nf4" else 0.0,
        "peak_memory_gib": peak_gib,
        "fits": peak_gib <= limit_gib,
    }


def _estimate_memory(
    params: StudyParams, shape: Shape, machine: Machine, work: Work
) -> tuple[float, float, int]:
    """GiB at the peak, GiB allowed, and layers that are checkpointed."""
    target = getattr(params, "memory_gib", 0.0)
    limit = target or machine.memory_gib
    usable = target or memory.USABLE * machine.memory_gib
    # Weights, with what trains of them; a prompt adds its LM head and the logits of its answers.
    head = shape.lm_head_params if work.answer_tokens else 0
    whole = memory.unpacked_gib(shape, machine.itemsize) + head * machine.itemsize / GIB
    unpacked = params.fast and memory.should_dequantize(whole, limit)
    quantized = params.quantization == "nf4" and not unpacked
    fixed = memory.weights_gib(
        shape,
        r=getattr(params, "lora_r", 0) if work.num_epochs else None,
        quantized=quantized,
        itemsize=machine.itemsize,
    )
    fixed += head * machine.itemsize / GIB
    fixed += work.answer_tokens * shape.vocabulary * memory.ROW_BYTES / GIB
    # Activations of the largest micro-batch, made to fit.
    examples = sorted(map(sum, work.train))
    longest = examples[-getattr(params, "batch_size", len(examples)) :]
    tokens = min(params.token_budget, sum(longest))
    adapted = getattr(params, "lora_layers", 0) or shape.num_layers
    checkpointed = adapted  # without training nothing is kept
    sizes = {"itemsize": machine.itemsize, "device": machine.device, "num_layers": adapted}
    if work.num_epochs:
        room = usable - machine.process_gib - fixed
        tokens, checkpointed = memory.fit_micro_batch(
            shape, num_tokens=tokens, longest=longest[-1], room_gib=room, **sizes
        )
    activations = memory.activation_gib(
        shape, num_tokens=tokens, checkpointed=checkpointed, **sizes
    )
    return machine.process_gib + fixed + activations, limit, checkpointed


def _train_seconds(
    params: StudyParams, shape: Shape, machine: Machine, work: Work, checkpointed: int
) -> float:
    """Seconds of all epochs of a seed: checkpointed layers run forward twice, cached ones once."""
    if not work.num_epochs:
        return 0.0
    r = getattr(params, "lora_r", 0)
    adapted = getattr(params, "lora_layers", 0) or shape.num_layers
    trained = work.num_epochs * adapted / shape.num_layers
    again = (work.num_epochs * checkpointed + shape.num_layers - adapted) / shape.num_layers
    sequences = list(chain.from_iterable(work.train))
    seconds = trained * machine.train_seconds(shape, sequences, r=r)
    return seconds + again * machine.infer_seconds(shape, sequences, r=r)


def _count_work(
    params: StudyParams,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    splits: DatasetDict,
) -> Work:
    """The tokens that an arm computes, on documents tokenized as the arm reads them."""
    params = reading.with_length(params, splits["train"]["text"])
    names = LabelSpace.from_splits(splits, label_names=params.label_names)  # at every size
    splits = take_train(
        splits, params.train_size, multi_label=params.multi_label, seed=params.seeds[0]
    )
    documents = reading.tokenize(params, tokenizer, splits)
    lengths = {name: list(map(window_lengths, split)) for name, split in documents.items()}
    train = lengths["train"]
    rows = {name: list(chain.from_iterable(split)) for name, split in lengths.items()}
    if isinstance(params, BaselineParams):  # a frozen embedding: every document once
        return Work(train, list(chain.from_iterable(rows.values())))
    epochs = params.num_epochs and trained_epochs(params.with_min_steps(len(train)))
    evaluations = epochs + 1
    if params.eval_steps:
        evaluations += epochs * math.ceil(len(train) / params.batch_size) // params.eval_steps
    held_out = rows["validation"] * evaluations + rows["test"]
    if not isinstance(params, InstructionParams):
        return Work(train, held_out, num_epochs=epochs)
    template, labels = build_template(tokenizer, config, names, params)
    climbed = lengths["validation"][: params.num_generated]
    held_out += list(chain.from_iterable(climbed)) * len(params.ladder)
    work = Work(train, held_out, num_epochs=epochs)
    return _prompt_work(params, template, labels, splits["train"]["labels"], work)


def _prompt_work(
    params: InstructionParams,
    template: PromptTemplate,
    labels: LabelSpace,
    train_labels: Sequence[Sequence[str]],
    documents: Work,
) -> Work:
    """The work on prompts and answers, given that on the documents alone."""
    train = documents.train
    answers = [len(template.answer_ids(*answer_texts(row, labels))) for row in train_labels]
    # Tokens beside each held-out document. Examples that all prompts share are computed once, which
    # is left out; those that differ per prompt, or precede a free answer, are computed each time.
    added = _tokens_to_answer(params, template, labels, max(answers))
    if params.example_choice == "nearest" or params.decoding == "generate":
        # An example is read up to `max_length` tokens: its first window.
        first = sum(windows[0] for windows in train)
        added += params.num_examples * (first + sum(answers)) // len(train)
    passes = 1.0
    if params.multi_label and params.decoding not in ("generate", "yes_no"):
        passes = sum(map(len, train_labels)) / len(train)  # one per label of a set
    held_out = [round(passes * (n + added)) for n in documents.held_out]
    # A training sequence per document or, with yes_no, two questions per label of a document.
    if params.decoding == "yes_no":
        asked = max(len(template.question_ids(text)) for text in labels.texts)
        asked -= len(template.suffix_ids)
        rows = zip(train, train_labels, strict=True)
        train = [tuple(n + asked for n in doc) for doc, row in rows for _ in range(2 * len(row))]
        answers = [max(len(template.answer_ids(word)) for word in (YES, NO))] * len(train)
    prompt = len(template.prefix_ids) + len(template.suffix_ids)
    pairs = zip(train, answers, strict=True)
    train = [tuple(n + prompt + answer for n in windows) for windows, answer in pairs]
    answered = params.batch_size * max(answers) * max(map(len, train))
    supervised = min(answered, params.token_budget)
    return Work(train, held_out, supervised, documents.num_epochs)


def _tokens_to_answer(
    params: InstructionParams, template: PromptTemplate, labels: LabelSpace, longest_answer: int
) -> int:
    """Tokens computed behind a document to answer once."""
    frame = len(template.suffix_ids)
    if params.decoding == "generate":
        return len(template.prefix_ids) + frame + longest_answer + ANSWER_TOKENS
    if params.decoding == "yes_no":  # one branch per label
        questions = [template.question_ids(text) for text in labels.texts]
        return len(LabelTrie.build([[*q, end] for q in questions for end in (0, 1)]).tokens)
    if params.decoding.startswith("score") or params.multi_label:
        return frame + len(LabelTrie.build([template.answer_ids(t) for t in labels.texts]).tokens)
    return frame + longest_answer
