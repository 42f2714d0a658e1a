"""Seconds and memory of the audit at three sizes, and whether it finds planted near-duplicates.

    python tests/benchmarks/audit_documents.py

Documents of about 120 words, drawn from a vocabulary of 50,000 words by Zipf's law as Mandelbrot
shifted it (p ~ 1 / (rank + 2.7)); 80 % train, 10 % validation, 10 % test. In test, one document in
fifty is a training document with one to three of its words replaced, one in fifty an exact copy.
Each size runs in a fresh process; its memory without the audit is given too.
"""

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from datasets import Dataset, DatasetDict

from lib.audit import audit
from lib.duplicates import find_duplicates

SIZES, WORDS, VOCABULARY, NUM_LABELS = (10_000, 50_000, 100_000), 120, 50_000, 50


def make_texts(size, rng):
    chances = np.cumsum(1 / (np.arange(VOCABULARY) + 2.7))
    vocabulary = np.array([f"{'aeiou'[i % 5]}word{i}" for i in range(VOCABULARY)], dtype=object)
    lengths = rng.poisson(WORDS, size)
    return [
        " ".join(vocabulary[np.searchsorted(chances, rng.random(length) * chances[-1])])
        for length in lengths
    ]


def plant(texts, first, rng):
    """Overwrite test texts, from `first` on, by edited and exact copies; the places of each."""
    places = np.arange(first, len(texts))
    edited, exact = places[::50], places[25::50]
    for place in (*edited, *exact):
        texts[place] = texts[rng.integers(len(texts) * 8 // 10)]
    for place in edited:
        words = texts[place].split()
        for i in rng.integers(0, len(words), rng.integers(1, 4)):
            words[i] = "replaced"
        texts[place] = " ".join(words)
    return edited, exact


def peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def measure(size):
    rng = np.random.default_rng(0)
    texts = make_texts(size, rng)
    cuts = [size * 8 // 10, size * 9 // 10, size]
    edited, exact = plant(texts, cuts[1], rng)
    labels = [[f"label {i}"] for i in rng.integers(0, NUM_LABELS, size)]
    splits = DatasetDict()
    for name, start, end in zip(("train", "validation", "test"), [0, *cuts], cuts, strict=False):
        ids = [f"{name}-{i}" for i in range(start, end)]
        splits[name] = Dataset.from_dict(
            {"id": ids, "text": texts[start:end], "labels": labels[start:end]}
        )
    del texts
    before, start = peak_gib(), time.perf_counter()
    audit(splits)
    seconds, peak = time.perf_counter() - start, peak_gib()
    found = set(find_duplicates(splits)["id"])
    planted = [[f"test-{i}" in found for i in places] for places in (edited, exact)]
    return seconds, before, peak, planted, len(found) - sum(map(sum, planted))


def main():
    for size in SIZES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, before, peak, (edited, exact), others = pool.submit(measure, size).result()
        print(
            f"{size:,} documents: {seconds:.1f} s, peak {peak:.2f} GiB ({before:.2f} before); "
            f"found {sum(edited)} of {len(edited)} edited, {sum(exact)} of {len(exact)} exact "
            f"copies, {others} others",
            flush=True,
        )


if __name__ == "__main__":
    main()
