"""Time and memory against length, labels, documents, rank and model size.

    make scaling

The first four are measured on SmolLM2-135M in NF4 with our training step; the size of the model by
the cost model of `model.memory` at this machine's measured rates, but for the 135M, which is both.
Writes figures/bench/scaling.csv and scaling.png, .pdf and .caption.md.
"""

import argparse
import json
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from contenders import DEVICE, DTYPE, MODEL_ID
from gpu import SIZES, config_of
from torch import nn
from transformers import AutoConfig, AutoModel, LlamaConfig

from lib.config.arms import StudyParams
from lib.config.groups import HeadParams, LoraParams
from lib.evaluation.metrics import f1_scores
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.head.pooling import PoolingHead
from lib.machine import configure_process, describe_machine, peak_memory_gib, reset_peak_memory
from lib.model.adapters import add_lora
from lib.model.batches import pad
from lib.model.load import load_backbone
from lib.model.memory import Shape, activation_gib, weights_gib
from lib.model.weights import resolve_model
from lib.report import save_figure, set_plot_style
from lib.runs.rates import measure_machine
from lib.storage import ROOT, atomic_path

OUT = ROOT / "figures" / "bench"
TOKENS = 1024  # of a step, unless one document is longer
LENGTHS = [32, 128, 512, 1024, 2048, 4096]
LABELS = [2, 100, 1_000, 10_000, 100_000]
DOCUMENTS = [1_000, 10_000, 100_000, 1_000_000]
RANKS = [1, 8, 64]


def adapted(backbone, *, r=8, num_labels=8):
    model = EmbeddingModel(
        backbone, HeadParams(pooling="mean"), num_labels=num_labels, compute_dtype=DTYPE
    )
    return add_lora(model, LoraParams(lora_r=r, lora_alpha=2 * r)).train()


def step_seconds(model, length: int) -> float:
    """Seconds a token in the second of two training steps of TOKENS tokens."""
    count = max(1, TOKENS // length)
    input_ids, mask = pad(np.random.default_rng(0).integers(5, 9999, (count, length)).tolist(), 2)
    for _ in range(2):
        start = time.perf_counter()
        logits = model(input_ids.to(DEVICE), mask.to(DEVICE))
        targets = torch.zeros(count, dtype=torch.long, device=DEVICE)
        nn.functional.cross_entropy(logits, targets).backward()
        model.zero_grad()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds / (count * length)


def against_length() -> list[dict]:
    """Upwards, so that what a step leaves in memory is no more than the next one takes."""
    model = adapted(load_backbone(MODEL_ID, dtype=DTYPE, max_length=max(LENGTHS)))
    rows = []
    for length in LENGTHS:
        reset_peak_memory(DEVICE)
        seconds = step_seconds(model, length)
        rows.append(
            {"axis": "length", "x": length, "seconds": seconds, "gib": peak_memory_gib(DEVICE)}
        )
    return rows


def against_rank() -> list[dict]:
    rows = []
    for r in RANKS:
        model = adapted(load_backbone(MODEL_ID, dtype=DTYPE), r=r)
        reset_peak_memory(DEVICE)
        seconds = step_seconds(model, 128)
        rows.append({"axis": "rank", "x": r, "seconds": seconds, "gib": peak_memory_gib(DEVICE)})
        del model
    return rows


def against_labels() -> list[dict]:
    """The head alone: pooled embeddings of 16 documents to gradients, with AdamW's step."""
    rows = []
    for num_labels in LABELS:
        head = PoolingHead(576, num_labels, HeadParams(pooling="mean")).to(DEVICE)
        optimizer = torch.optim.AdamW(head.parameters())
        states = torch.randn(16, 4, 576, device=DEVICE)
        mask = torch.ones(16, 4, dtype=torch.long, device=DEVICE)
        targets = torch.randint(num_labels, (16, 2), device=DEVICE)
        loss = HeadLoss("cross_entropy", num_labels)
        reset_peak_memory(DEVICE)
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            head.loss(states, mask, targets, loss).backward()
            optimizer.step()
            optimizer.zero_grad()
            taken.append((time.perf_counter() - start) / 16)
        rows.append(
            {"axis": "labels", "x": num_labels, "seconds": float(np.median(taken)),
             "gib": peak_memory_gib(DEVICE)}
        )  # fmt: skip
        del head, optimizer
    return rows


def against_documents() -> list[dict]:
    """Prediction and F1 of simulated documents, 16 tokens and 20 labels, by a one-layer model."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
        vocab_size=100, pad_token_id=0,
    )  # fmt: skip
    model = EmbeddingModel(
        AutoModel.from_config(config),
        HeadParams(pooling="mean"),
        num_labels=20,
        compute_dtype=torch.float32,
    ).to(DEVICE)
    generator = np.random.default_rng(0)
    rows = []
    for count in DOCUMENTS:
        documents = list(generator.integers(1, 100, (count, 16), dtype=np.int32))
        truth = np.zeros((count, 20), dtype=bool)
        truth[np.arange(count), generator.integers(0, 20, count)] = True
        reset_peak_memory(DEVICE)
        start = time.perf_counter()
        logits = predict_logits(model, documents, token_budget=65_536)
        f1_scores(truth, logits.labels_above(np.inf))
        rows.append(
            {"axis": "documents", "x": count, "seconds": (time.perf_counter() - start) / count,
             "gib": peak_memory_gib(DEVICE)}
        )  # fmt: skip
    return rows


def against_size(measured_seconds: float, measured_gib: float) -> list[dict]:
    """Training at 512 tokens: estimates, with the measured 135M beside its own."""
    small = Shape.from_config(AutoConfig.from_pretrained(resolve_model(MODEL_ID)))
    machine = measure_machine(small, device=DEVICE, dtype=DTYPE)
    shapes = [small, *(Shape.from_config(config_of(size)) for size in SIZES)]
    rows = [{"axis": "size", "x": 0.135, "seconds": measured_seconds, "gib": measured_gib}]
    for shape in shapes:
        gib = weights_gib(shape, r=8, quantized=True, itemsize=DTYPE.itemsize)
        gib += activation_gib(
            shape, num_tokens=TOKENS, itemsize=DTYPE.itemsize, device=machine.device
        )
        seconds = machine.train_seconds(shape, [512], r=8) / 512
        rows.append(
            {"axis": "estimated size", "x": billions(shape), "seconds": seconds, "gib": gib}
        )
    return rows


def billions(shape: Shape) -> float:
    return (shape.linear_params + shape.embedding_params) / 1e9


def on_a_gpu() -> list[dict]:
    """What `gpu.py` has measured, wherever that was."""
    table = pd.read_csv(OUT / "gpu.csv").set_index(["case", "metric"])["theirs"]
    return [
        {"axis": "size on a GPU", "x": billions(Shape.from_config(config_of(size))),
         "seconds": 1 / table[f"plan_512: {size}", "tokens per second"],
         "gib": table[f"plan_512: {size}", "peak memory"]}
        for size in SIZES
    ]  # fmt: skip


def plot(table: pd.DataFrame) -> plt.Figure:
    """Two rows of panels: time for a token or document, and peak memory."""
    panels = {
        "length": ("tokens of a document", 1e3, "ms a token"),
        "labels": ("labels", 1e3, "ms a document, head alone"),
        "documents": ("documents", 1e3, "ms a document, inference"),
        "rank": ("LoRA rank", 1e3, "ms a token"),
        "size": ("parameters (billions)", 1e3, "ms a token"),
    }
    fig, axs = plt.subplots(2, len(panels), figsize=(13, 5), sharex="col")
    for (axis, (label, scale, unit)), (top, bottom) in zip(panels.items(), axs.T, strict=True):
        for name, look in LOOKS.items():
            name = name.format(axis)
            rows = table[table["axis"] == name]
            if len(rows):
                top.plot(rows["x"], rows["seconds"] * scale, look)
                bottom.plot(rows["x"], rows["gib"], look)
        top.set(ylabel=unit, xscale="log", yscale="log" if axis in ("labels", "size") else "linear")
        bottom.set(xlabel=label, ylabel="peak memory (GiB)", xscale="log")
        shown = table[table["axis"].isin([name.format(axis) for name in LOOKS])]
        bottom.set_ylim(0, 1.1 * shown["gib"].max())
        if top.get_yscale() == "linear":
            top.set_ylim(0, 1.1 * scale * shown["seconds"].max())
    sizes = table.loc[table["axis"] == "estimated size", "x"]
    axs[1, -1].set_xticks(sizes, [f"{size:.2g}" for size in sizes])
    axs[1, -1].minorticks_off()
    axs[0, -1].legend(["measured", "estimated", "on a GPU"])
    fig.tight_layout()
    return fig


LOOKS = {"{}": "o-", "estimated {}": "s--", "{} on a GPU": "^-"}
AXES = {
    "labels": against_labels,
    "documents": against_documents,
    "rank": against_rank,
    "length": against_length,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axis", choices=AXES, help="one axis alone, printed as JSON")
    axis = parser.parse_args().axis
    configure_process(seed=0, num_threads=StudyParams().threads)
    if axis:
        print(json.dumps(AXES[axis]()))
        return
    set_plot_style()
    rows = []
    for axis in AXES:  # each in a process of its own, so that none sees another's memory
        command = [sys.executable, __file__, "--axis", axis]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout.splitlines()[-1])
        print(axis, rows[-1], flush=True)
    at_512 = next(row for row in rows if (row["axis"], row["x"]) == ("length", 512))
    rows += against_size(at_512["seconds"], at_512["gib"])
    table = pd.DataFrame(rows + on_a_gpu())
    with atomic_path(OUT / "scaling.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    caption = (
        f"Time and peak memory of the process against the length of documents ({TOKENS:,} tokens a "
        "training step, or one document), the number of labels (forward, backward and AdamW of the "
        "head, 16 documents), the number of documents (prediction and F1 by a one-layer model), "
        "the rank of LoRA (128 tokens), and the size of the model (dashed: the cost model of "
        "`memory`, 4-bit weights and what a step keeps, without the process itself; triangles: "
        "measured on the GPU of gpu.md, random weights dequantized to 16 bits, 8,192 tokens at "
        "once). "
        f"SmolLM2-135M, NF4. Machine: {describe_machine(DEVICE, DTYPE)}. "
        "Command: `make scaling`."
    )
    save_figure(plot(table), OUT, "scaling", caption)


if __name__ == "__main__":
    main()
