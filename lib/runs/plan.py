"""What a study will take before it is run: time, memory and cost of each arm.

    python -m lib.runs.plan params/<study> [--machine L4 [--price 0.70]]

Documents are read and tokenized as the arms will do it; weights are not loaded. Rates are measured
here for 20 seconds or, for a named GPU, taken from its data sheet. Where an arm has been run, its
record stands beside the estimate.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformers import AutoConfig, PreTrainedTokenizerBase

from lib.prompt.answers import answer_texts
from lib.model.memory import GIB, GPUS, ROW_BYTES, USABLE, Machine, Shape, fit_micro_batch, kept_gib, measure_machine, unpacked_gib, unpacks_once, weights_gib
from lib.data.labels import LabelSpace
from lib.data.load import load_splits, take_train
from lib.machine import choose_device, choose_dtype, start_run
from lib.prompt.template import build_template
from lib.model.load import load_tokenizer
from lib.config.arms import BaselineParams, InstructionParams, StudyParams
from lib.errors import InputError
from lib.prompt.template import NO, YES
from lib.config.study import load_params, load_study, study_runs
from lib.model.tokens import encode_cached
from lib.prompt.label_trie import LabelTrie
from lib.errors import ModelError
from lib.model.weights import resolve_model


def plan(folder: str | Path, *, machine: Machine, price: float = 0.0) -> pd.DataFrame:
    """Estimates, a row per arm of a study's params folder, or per arm and training size.

    Parameters
    ----------
    machine
        Of `lib.model.memory.GPUS`, or measured by `lib.model.memory.measure_machine`.
    price
        Of an hour of the machine, in any currency; it gives the column `cost`.

    Returns
    -------
    DataFrame
        `arm`; `train_seconds` and `infer_seconds` of one seed, the latter for validation after each
        epoch and at the end, and for test; `hours` of all seeds; `nf4_share`, the share of weights
        in 4 bits (not those of embeddings and most experts); `peak_memory_gib` and whether it
        `fits`; `cost`; and, where seed 0 has been run, `measured_train_seconds` and
        `measured_peak_gib`. TF-IDF, which trains in seconds, has no estimate.

    Raises
    ------
    InputError
        Parameters, data or a model's config cannot be read.
    """
    rows = []
    for name, run in study_runs(load_study(folder).values()).items():
        row = {"arm": name} | _estimate(run, machine)
        seconds = (row["train_seconds"] + row["infer_seconds"]) * len(run.seeds)
        row |= {"hours": seconds / 3600, "cost": price * seconds / 3600}
        record = run.run_dir / "resources.json"
        if machine.name == "this machine" and record.is_file():
            measured = json.loads(record.read_text())
            row["measured_train_seconds"] = measured["train_seconds"]
            row["measured_peak_gib"] = measured["peak_memory_gib"]
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if price else table.drop(columns="cost")


def _estimate(params: StudyParams, machine: Machine) -> dict[str, float | bool]:
    """The columns of one arm's row that do not depend on seeds and price."""
    if isinstance(params, BaselineParams) and params.method == "tfidf":
        return dict.fromkeys(("train_seconds", "infer_seconds", "peak_memory_gib"), float("nan"))
    try:
        shape = Shape.from_config(AutoConfig.from_pretrained(resolve_model(params.model_id)))
        tokenizer = load_tokenizer(params.model_id)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{params.model_id}: no config: {reason}") from None
    train, held_out, answers, epochs = _count_tokens(params, tokenizer)
    r = getattr(params, "lora_r", 0)
    limit = getattr(params, "memory_gib", 0.0) or machine.memory_gib
    usable = getattr(params, "memory_gib", 0.0) or USABLE * machine.memory_gib
    head = shape.lm_head_params if answers else 0
    whole = unpacked_gib(shape, machine.itemsize) + head * machine.itemsize / GIB
    weights = weights_gib(
        shape,
        r=r if epochs else None,
        quantized=params.quantization == "nf4" and not unpacks_once(whole, limit),
        itemsize=machine.itemsize,
    )
    longest = sorted(train)[-getattr(params, "batch_size", len(train)) :]
    tokens = min(params.token_budget, sum(longest))
    fixed = weights + (head * machine.itemsize + answers * shape.vocabulary * ROW_BYTES) / GIB
    adapted = getattr(params, "lora_layers", 0) or shape.num_layers
    checkpointed = adapted  # without training nothing is kept
    if epochs:
        tokens, checkpointed = fit_micro_batch(
            shape, num_tokens=tokens, longest=longest[-1], num_layers=adapted,
            itemsize=machine.itemsize, device=machine.device,
            room_gib=usable - machine.process_gib - fixed,
        )  # fmt: skip
    peak = machine.process_gib + fixed
    peak += kept_gib(
        shape, num_tokens=tokens, itemsize=machine.itemsize, device=machine.device,
        num_layers=adapted, checkpointed=checkpointed,
    )  # fmt: skip
    forward = machine.infer_seconds(shape, train, r=r)
    seconds = 0.0
    if epochs:  # checkpointed layers run forward twice, those below the adapters once (lib.model.fast.cached_layers)
        depth = shape.num_layers
        seconds = epochs * adapted / depth * machine.train_seconds(shape, train, r=r)
        seconds += (epochs * checkpointed + depth - adapted) / depth * forward
    quantizable = shape.linear_params / (shape.linear_params + shape.embedding_params)
    return {
        "train_seconds": seconds,
        "infer_seconds": machine.infer_seconds(shape, held_out, r=r if epochs else 0),
        "nf4_share": quantizable if params.quantization == "nf4" else 0.0,
        "peak_memory_gib": peak,
        "fits": peak <= limit,
    }


def _count_tokens(
    params: StudyParams, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], int, int]:
    """Tokens of each training document, each forward pass held out and a step's answers; epochs."""
    splits = load_splits(**params.data_options)
    splits = take_train(
        splits, params.train_size, multi_label=params.multi_label, seed=params.seeds[0]
    )
    options = {"max_length": params.max_length, "add_special_tokens": True}
    lengths = {
        name: [len(ids) for ids in encode_cached(tokenizer, split["text"], **options)]
        for name, split in splits.items()
    }
    train, epochs = lengths["train"], getattr(params, "num_epochs", 0)
    if epochs:
        epochs = params.with_min_steps(len(train)).num_epochs
    held_out = lengths["validation"] * (epochs + 1) + lengths["test"]
    if isinstance(params, BaselineParams):  # a frozen embedding: every document once
        return train, train + lengths["validation"] + lengths["test"], 0, 0
    if not isinstance(params, InstructionParams):
        return train, held_out, 0, epochs
    names = LabelSpace.from_splits(splits, label_names=params.label_names)
    config = AutoConfig.from_pretrained(resolve_model(params.model_id))
    template, labels = build_template(tokenizer, config, names, **params.prompt_options)
    prompt = len(template.prefix_ids) + len(template.suffix_ids)
    known = [len(template.answer_ids(*answer_texts(x, labels))) for x in splits["train"]["labels"]]
    added, passes = len(template.suffix_ids) + max(known), 1.0
    examples = params.num_examples * (sum(train) + sum(known)) // len(train)
    if params.decoding == "generate":
        added += len(template.prefix_ids) + 8
    elif params.decoding.startswith("score") or params.multi_label:  # the trie each time
        trie = LabelTrie.build([template.answer_ids(text) for text in labels.texts])
        added = len(template.suffix_ids) + len(trie.tokens)
    if params.decoding == "yes_no":  # a branch for each label, an example for each question
        questions = [template.question_ids(text) for text in labels.texts]
        added = len(LabelTrie.build([[*q, end] for q in questions for end in (0, 1)]).tokens)
        longest = max(map(len, questions)) - len(template.suffix_ids)
        asked = zip(train, splits["train"]["labels"], strict=True)
        train = [n + longest for n, row in asked for _ in range(2 * len(row))]
        known = [max(len(template.answer_ids(word)) for word in (YES, NO))] * len(train)
    elif params.multi_label and params.decoding != "generate":  # and again for each label of a set
        passes = sum(map(len, splits["train"]["labels"])) / len(train)
    if params.example_choice == "nearest" or params.decoding == "generate":
        added += examples  # else they are computed once for all prompts
    train = [n + prompt + answer for n, answer in zip(train, known, strict=True)]
    supervised = params.batch_size * max(known)
    supervised = min(supervised, params.token_budget)
    return train, [round(passes * (n + added)) for n in held_out], supervised, epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: a table, or what is wrong in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.runs.plan", description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="params/<study>")
    parser.add_argument("--machine", choices=GPUS, help="a GPU; without it, this machine")
    parser.add_argument("--price", type=float, default=0.0, help="of an hour of the machine")
    options = parser.parse_args(arguments)
    try:
        study = load_params(Path(options.folder) / "common.yaml")
        start_run(seed=0, num_threads=study.threads)
        machine = GPUS[options.machine] if options.machine else calibrate(study)
        table = plan(options.folder, machine=machine, price=options.price)
    except InputError as error:
        sys.exit(str(error))
    source = "data sheet" if options.machine else "measured"
    print(f"{machine.name} ({source}): {machine.flops / 1e12:.2f} TFLOP/s, "
          f"{machine.bandwidth / 1e9:.0f} GB/s, {machine.memory_gib:.0f} GiB")  # fmt: skip
    print(table.to_string(index=False, float_format="{:,.2f}".format, na_rep="-"))


def calibrate(study: StudyParams, *, seconds: float = 20.0) -> Machine:
    """This machine's rates, measured on matrix products of the study's model."""
    device = choose_device(study.device)
    shape = Shape.from_config(AutoConfig.from_pretrained(resolve_model(study.model_id)))
    return measure_machine(shape, device=device, dtype=choose_dtype(device), seconds=seconds)


if __name__ == "__main__":
    main()
