"""Models of 1, 3 and 8 billion random weights on a GPU: ours against the usual recipe.

    python tests/benchmarks/gpu.py [--scratch /dev/shm]

Speed and memory do not depend on what weights are, so nothing is downloaded: models are made, kept
in the scratch folder (18 GB) and loaded from there, quantized to NF4, as a hub's would be. Four
contenders share the card, which should have 100 GiB. Writes figures/bench/gpu.csv and gpu.md.
"""

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench import OUT, REPEATS, TOLERANCE, Contender, take_turns
from contenders import ALPHA, BATCH, DEVICE, DTYPE, LEARNING_RATE, RANK
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from lib.config.arms import StudyParams
from lib.machine import configure_process, describe_machine
from lib.model.memory import (  # fmt: skip
    Shape,
    activation_gib,
    fit_micro_batch,
    should_dequantize,
    unpacked_gib,
    weights_gib,
)
from lib.runs.rates import measure_machine, training_flops
from lib.storage import atomic_path

SIZES = {  # hidden, intermediate, layers, heads, key heads, vocabulary: those of Llama 3
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "3B": (3072, 8192, 28, 24, 8, 128256),
    "8B": (4096, 14336, 32, 32, 8, 128256),
}
TOKEN_BUDGET = 8192  # of a micro-batch, where memory allows
LIMIT_GIB = 12.0  # of a run in little memory
CAP_GIB = 16.0  # of a run whose allocator is given no more
NUM_LABELS = 8


def config_of(size: str) -> LlamaConfig:
    hidden, intermediate, layers, heads, key_heads, vocabulary = SIZES[size]
    return LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, vocab_size=vocabulary,
        pad_token_id=0,
    )  # fmt: skip


def make_model(size: str, folder: Path) -> None:
    """Random weights and a tokenizer of two words, for nobody reads a text here."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config_of(size), dtype=DTYPE)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    del model
    release()


def release() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def make_cases(vocabulary: int) -> dict:
    """Random documents: all of 512 tokens, all of 1,024, and of lengths as texts have them."""
    generator = np.random.default_rng(0)
    mixed = np.clip(generator.lognormal(np.log(150), 0.8, 128), 16, 512).astype(int).tolist()
    lengths = {"512": [512] * 128, "1024": [1024] * 32, "mixed": mixed}
    return {
        name: {
            "max_length": max(tokens),
            "ids": [generator.integers(2, vocabulary, n).tolist() for n in tokens],
            "targets": generator.integers(0, NUM_LABELS, len(tokens)).tolist(),
        }
        for name, tokens in lengths.items()
    }


def start(folder: Path, cases: dict, kinds: dict[str, tuple[str, float]]) -> dict[str, Contender]:
    """Contenders by name, of a kind and with memory in GiB (0: all), loaded side by side."""

    def one(item) -> tuple[str, Contender]:
        name, (kind, gib) = item
        file = folder / f"{name}.json"
        more = {"model_id": str(folder), "memory_gib": gib, "token_budget": TOKEN_BUDGET}
        file.write_text(json.dumps(cases | more | {"num_labels": NUM_LABELS}))
        return name, Contender(kind, file)

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(one, kinds.items()))


def first_steps(contenders: dict[str, Contender], add) -> None:
    """Ten steps of four documents from the same adapters, side by side: whatever is compiled is."""
    with ThreadPoolExecutor() as pool:
        ask = partial(Contender.ask, command="train", case="512", count=40, batch_size=4)
        answers = list(pool.map(ask, contenders.values()))
    curves = {n: np.array(answer["losses"]) for n, answer in zip(contenders, answers, strict=True)}
    for name, curve in curves.items():
        if "usual" in curves and name != "usual":
            add(f"train_512: {name}", "usual", "largest difference of a step's loss, and what is "
                "tolerated", "nats", abs(curve - curves["usual"]).max(), TOLERANCE,
                less_is_better=True)  # fmt: skip


def compare(case: str, contenders: dict[str, Contender], pairs: dict, lengths, add) -> dict:
    """Tokens/s and peak memory on documents of these lengths; speeds by contender."""
    count = len(lengths)
    for process in contenders.values():
        process.ask("reset_peak")
    speeds = take_turns(contenders, "train", count, case=case, batch_size=BATCH)
    peaks = {name: process.ask("peak") for name, process in contenders.items()}
    tokens = sum(lengths) / count
    for ours, theirs in pairs.items():
        add(f"train_{case}: {ours}", theirs, "tokens per second", "1/s",
            speeds[ours] * tokens, speeds[theirs] * tokens)  # fmt: skip
        add(f"train_{case}: {ours}", theirs, "peak memory", "GiB",
            peaks[ours], peaks[theirs], less_is_better=True)  # fmt: skip
    return {name: (speeds[name] * tokens, peaks[name]) for name in contenders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", default=None, help="folder for models, in memory if possible")
    scratch = parser.parse_args().scratch
    configure_process(seed=0, num_threads=StudyParams().threads)
    rows: list[dict] = []
    limits: dict = {}

    def add(case, baseline, metric, unit, ours, theirs, *, less_is_better=False):
        ratio = theirs / ours if less_is_better else ours / theirs
        rows.append(
            {"case": case, "baseline": baseline, "metric": metric, "unit": unit,
             "ours": round(ours, 4), "theirs": round(theirs, 4), "ratio": round(ratio, 3)}
        )  # fmt: skip
        print(rows[-1], flush=True)
        write(pd.DataFrame(rows), limits)

    for size in reversed(SIZES):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            run_size(size, Path(folder), limits, add)


def run_size(size: str, folder: Path, limits: dict, add) -> None:
    shape = Shape.from_config(config_of(size))
    machine = measure_machine(shape, device=DEVICE, dtype=DTYPE, seconds=2)
    release()
    limits[size] = machine
    make_model(size, folder)
    cases = make_cases(shape.vocabulary)
    lengths = {name: [len(ids) for ids in case["ids"]] for name, case in cases.items()}
    against = size == "8B"
    lean = f"ours in {LIMIT_GIB:.0f} GiB"
    kinds = {"ours": ("ours", 0.0)}
    if against:
        kinds |= {
            lean: ("ours", LIMIT_GIB),
            "usual": ("trainer", 0.0),
            "usual, checkpointed": ("trainer", LIMIT_GIB),
        }
    contenders = start(folder, cases, kinds)
    first_steps(contenders, add)
    pairs = {"ours": "usual", lean: "usual, checkpointed"} if against else {}
    reached = compare("512", contenders, pairs, lengths["512"], add)
    flops = training_flops(shape, [512], r=RANK) / 512  # a token
    for name, (speed, _) in reached.items():
        add(f"train_512: {size}", "machine_limit", f"model FLOP/s of {name}", "TFLOP/s",
            speed * flops / 1e12, machine.flops / 1e12)  # fmt: skip
    add(f"plan_512: {size}", "estimate", "tokens per second", "1/s",
        512 / machine.train_seconds(shape, [512], r=RANK), reached["ours"][0])  # fmt: skip
    add(f"plan_512: {size}", "estimate", "peak memory", "GiB",
        peak_estimate(shape, machine.memory_gib), reached["ours"][1])  # fmt: skip
    if against:
        add(f"train_512: {lean}", "usual", "tokens per second", "1/s",
            reached[lean][0], reached["usual"][0])  # fmt: skip
        pair = {name: contenders[name] for name in ("ours", "usual")}
        compare("mixed", pair, {"ours": "usual"}, lengths["mixed"], add)
        process = contenders[lean]
        process.ask("cap", gib=CAP_GIB)
        process.ask("reset_peak")
        process.ask("train", case="1024", count=32, batch_size=BATCH)
        add(f"train_1024: ours, allocator capped at {CAP_GIB:.0f} GiB", "cap", "peak memory", "GiB",
            process.ask("peak"), CAP_GIB, less_is_better=True)  # fmt: skip
    for process in contenders.values():
        process.close()


def peak_estimate(shape: Shape, memory_gib: float) -> float:
    """What `lib.runs.plan` says of ours, in GiB."""
    itemsize = DTYPE.itemsize
    quantized = not should_dequantize(unpacked_gib(shape, itemsize), memory_gib)
    weights = weights_gib(shape, r=RANK, quantized=quantized, itemsize=itemsize)
    tokens, checkpointed = fit_micro_batch(
        shape, num_tokens=min(TOKEN_BUDGET, BATCH * 512), longest=512, itemsize=itemsize,
        device=DEVICE.type, num_layers=shape.num_layers, room_gib=memory_gib - weights,
    )  # fmt: skip
    return weights + activation_gib(
        shape, num_tokens=tokens, itemsize=itemsize, device=DEVICE.type, checkpointed=checkpointed
    )


def write(table: pd.DataFrame, limits: dict) -> None:
    rates = "; ".join(
        f"{machine.flops / 1e12:.0f} TFLOP/s ({size})" for size, machine in limits.items()
    )
    bandwidth = next(iter(limits.values())).bandwidth / 1e9
    text = (
        f"`python tests/benchmarks/gpu.py`, medians of {REPEATS} interleaved repeats; a ratio "
        "above 1 means that ours is better, and of estimates, that they are higher. Shapes of "
        f"Llama 3 with random weights, NF4, LoRA r = {RANK}, alpha = {ALPHA}, learning rate "
        f"{LEARNING_RATE}, {BATCH} documents an optimizer step, at most {TOKEN_BUDGET:,} tokens "
        "at once. Memory is what tensors take at most.\n\n"
        f"Machine: {describe_machine(DEVICE, DTYPE)}. Its matrix products of the models' shapes, "
        f"2,048 rows: {rates}; its memory: {bandwidth:.0f} GB/s.\n\n"
        f"{table.to_markdown(index=False)}\n"
    )
    with atomic_path(OUT / "gpu.csv") as path:
        table.to_csv(path, index=False)
    with atomic_path(OUT / "gpu.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
