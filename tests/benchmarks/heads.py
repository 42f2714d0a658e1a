"""Time and memory of the head alone at 10 to 100,000 labels: in chunks, and all labels at once.

    python tests/benchmarks/heads.py

A training step (loss, gradients, AdamW) and a prediction of 64 documents with label sets of three,
on embeddings of width 576; medians of five, each case in a process of its own.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import torch

from lib.config.arms import StudyParams
from lib.head import chunked
from lib.head.chunked import chunked_loss, chunked_top
from lib.head.classifiers import LinearHead
from lib.head.losses import HeadLoss
from lib.machine import configure_process, describe_machine, peak_memory_gib, reset_peak_memory
from lib.storage import ROOT, atomic_path

OUT = ROOT / "figures" / "bench"
LABELS = [10, 1_000, 100_000]
DOCUMENTS, WIDTH, REPEATS = 64, 576, 5
CPU = torch.device("cpu")


def measure(num_labels: int, how: str) -> dict:
    configure_process(seed=0, num_threads=StudyParams().threads)
    if how == "at once":
        chunked.LABELS_AT_ONCE = num_labels
    head = LinearHead(WIDTH, num_labels, bias=True)
    optimizer = torch.optim.AdamW(head.parameters(), fused=True)
    targets = torch.randint(num_labels, (DOCUMENTS, 3))
    loss = HeadLoss("cross_entropy", num_labels)
    trained, predicted = [], []
    for i in range(REPEATS):
        if i == 1:  # gradients and moments are there by now
            reset_peak_memory(CPU)
            before = peak_memory_gib(CPU)
        pooled = torch.randn(DOCUMENTS, WIDTH, requires_grad=True)
        start = time.perf_counter()
        chunked_loss(pooled, head.weight, head.bias, targets, loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        trained.append(time.perf_counter() - start)
    step_gib = peak_memory_gib(CPU) - before
    for _ in range(REPEATS):
        start = time.perf_counter()
        chunked_top(pooled.detach(), head.weight, head.bias, min(100, num_labels))
        predicted.append(time.perf_counter() - start)
    return {
        "labels": num_labels,
        "how": how,
        "step_ms": 1e3 * float(np.median(trained)),
        "predict_ms": 1e3 * float(np.median(predicted)),
        "head_gib": 4 * 4 * sum(p.numel() for p in head.parameters()) / 2**30,
        "step_gib": step_gib,
    }


def main() -> None:
    rows = []
    for num_labels in LABELS:
        for how in ("in chunks", "at once"):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows.append(pool.submit(measure, num_labels, how).result())
            print(rows[-1], flush=True)
    with atomic_path(OUT / "heads.csv") as path:
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
    print(describe_machine(CPU, torch.float32))


if __name__ == "__main__":
    main()
