"""Seconds and peak memory of all intervals and paired tests of a large study.

python tests/benchmarks/significance.py
"""

import argparse
import resource
import time
from itertools import combinations

import numpy as np

from lib.evaluation.intervals import f1_intervals
from lib.evaluation.significance import compare_all


def simulate(
    *, num_arms: int, num_seeds: int, num_documents: int, num_labels: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One label a document, frequencies falling as 1 / rank; arms are right in 60 to 80 %."""
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, num_labels + 1)
    draw = {"a": num_labels, "p": shares / shares.sum()}
    truth = generator.choice(size=num_documents, **draw)
    size = (num_seeds, num_documents)
    y_preds = {}
    for arm, share in enumerate(np.linspace(0.6, 0.8, num_arms)):
        right = generator.random(size) < share
        answers = np.where(right, truth, generator.choice(size=size, **draw))
        y_preds[f"arm {arm}"] = answers[:, :, None] == np.arange(num_labels)
    return truth[:, None] == np.arange(num_labels), y_preds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("arms", 10), ("seeds", 1), ("documents", 3000), ("labels", 600)):
        parser.add_argument(f"--num-{name}", type=int, default=value)
    parser.add_argument("--num-resamples", type=int, default=10_000)
    options = vars(parser.parse_args())
    num_resamples = options.pop("num_resamples")
    y_true, y_preds = simulate(**options)
    start, cpu = time.perf_counter(), time.process_time()
    f1_intervals(y_true, y_preds)
    intervals = time.perf_counter() - start
    pairwise = compare_all(y_true, y_preds, num_resamples=num_resamples)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert len(pairwise) == 2 * len(list(combinations(y_preds, 2)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options}, {num_resamples:,} resamples: {seconds:.1f} s ({intervals:.1f} s of them "
        f"intervals of arms; {cpu:.1f} s of CPU time), peak of the process {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
