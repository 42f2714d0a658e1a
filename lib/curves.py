"""Learning curves: F1 against training documents, where two curves cross, and what that says.

A study with `train_sizes` runs its arms as "<approach>@<size>"; one that learns from nothing runs
once, by its plain name. Resamples are of documents and seeds, the same for all arms, so that what
is said of two curves is paired.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from lib.intervals import f1_intervals
from lib.resampling import AVERAGES, f1, resample_f1

LEVEL = 0.95


@dataclass(frozen=True)
class Curve:
    """F1 of one approach at K training sizes, and of R resamples of documents and seeds.

    Attributes
    ----------
    sizes
        Training documents, ascending, (K,) int64; `[0]` for an approach that learns from nothing.
    f1
        Mean over seeds, (K,) float64.
    samples
        (R, K) float64.
    """

    sizes: np.ndarray
    f1: np.ndarray
    samples: np.ndarray

    @property
    def taught(self) -> bool:
        """Whether the approach learns from training documents at all."""
        return bool(self.sizes[-1])


def split_arm(arm: str) -> tuple[str, int]:
    """ "embedding@64" as ("embedding", 64); a name without a size has size 0."""
    approach, _, size = arm.partition("@")
    return approach, int(size or 0)


def learning_curves(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], *, groups: np.ndarray | None = None
) -> pd.DataFrame:
    """A row for each approach and size: `approach train_size num_seeds`, F1 and its interval.

    Parameters
    ----------
    y_true, y_preds
        See `lib.comparison.stack_predictions`.
    groups
        See `lib.comparison.read_groups`.

    Returns
    -------
    DataFrame
        For both averages, `micro_f1 micro_f1_low micro_f1_high` and so on; `train_size` 0 for an
        approach that learns from nothing. Ordered by approach and size.
    """
    table = f1_intervals(y_true, y_preds, groups=groups)
    named = [split_arm(arm) for arm in table.pop("arm")]
    table.insert(0, "approach", [approach for approach, _ in named])
    table.insert(1, "train_size", [size for _, size in named])
    return table.sort_values(["approach", "train_size"], ignore_index=True)


def seed_points(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: `approach train_size seed micro_f1 macro_f1`, from `read_runs`."""
    named = [split_arm(arm) for arm in runs["arm"]]
    points = pd.DataFrame(named, columns=["approach", "train_size"], index=runs.index)
    return points.join(runs[["seed", *AVERAGES]])


def resample_curves(
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    average: str = "micro_f1",
    groups: np.ndarray | None = None,
    num_resamples: int = 5000,
    seed: int = 0,
) -> dict[str, Curve]:
    """The curve of each approach, resampled jointly over test documents and training seeds.

    Documents are drawn with replacement (Efron & Tibshirani 1993, chapter 6), the same for all. The
    mean over seeds moves by a Student's t of S - 1 degrees of freedom times its standard error, by
    one draw for all arms of as many seeds: seed s of any of them learns from the same documents. A
    bootstrap of so few seeds would vary too little (chapter 5). One seed stands for that model.

    Parameters
    ----------
    y_true, y_preds, groups
        See `learning_curves`.
    """
    options = {"groups": groups, "num_resamples": num_resamples, "seed": seed}
    samples = resample_f1(y_true, y_preds, **options)
    found: dict[str, dict[int, tuple[float, np.ndarray]]] = {}
    for arm, preds in y_preds.items():
        approach, size = split_arm(arm)
        value = f1(y_true, preds, average)
        of_seeds = samples[arm][AVERAGES.index(average)].T  # (R, S)
        moved = (of_seeds * _seed_weights(len(preds), num_resamples, seed)).sum(axis=1)
        found.setdefault(approach, {})[size] = value, moved
    curves = {}
    for approach, by_size in found.items():
        sizes = sorted(by_size)
        values, samples = zip(*(by_size[size] for size in sizes), strict=True)
        curves[approach] = Curve(np.array(sizes), np.array(values), np.stack(samples, axis=1))
    return curves


def _seed_weights(num_seeds: int, num_resamples: int, seed: int) -> np.ndarray:
    """(R, S) with rows of sum 1: the mean they weigh is t-distributed around the plain one."""
    if num_seeds == 1:
        return np.ones((num_resamples, 1))
    generator = np.random.default_rng([seed, num_seeds])
    apart = generator.standard_normal((num_resamples, num_seeds))
    apart -= apart.mean(axis=1, keepdims=True)
    apart /= np.sqrt(generator.chisquare(num_seeds - 1, (num_resamples, 1)) / (num_seeds - 1))
    return 1 / num_seeds + apart / math.sqrt(num_seeds * (num_seeds - 1))


def crossings(curves: Mapping[str, Curve], *, level: float = LEVEL) -> pd.DataFrame:
    """Where, for each pair, the approach that is ahead at the largest size has got ahead.

    Between sizes, F1 is taken to be linear in the logarithm of the training documents. An approach
    that learns from nothing is a level line. A crossing exists where the two ends of a pair have
    different leaders; of several, the last counts.

    Returns
    -------
    DataFrame
        `ahead behind train_size low high share certain`: at the largest common size `ahead` leads;
        it has got ahead at `train_size` documents (nan if it leads at the smallest size too), with
        the 95 % interval of those resamples that cross in this direction too, a `share` of all; a
        crossing is `certain` if it is seen and that share is at least `level`.
    """
    columns = ["ahead", "behind", "train_size", "low", "high", "share", "certain"]
    rows = []
    for a, b in combinations(curves, 2):
        sizes = _common_sizes(curves[a], curves[b])
        if len(sizes) < 2:
            continue
        values, samples = difference(curves[a], curves[b], sizes)
        if values[-1] < 0:
            a, b, values, samples = b, a, -values, -samples
        seen = _crossing(sizes, values[None])[0]
        resampled = _crossing(sizes, samples)
        crossing = resampled[~np.isnan(resampled)]
        low, high = np.quantile(crossing, [0.025, 0.975]) if len(crossing) else (np.nan, np.nan)
        share = len(crossing) / len(samples)
        rows.append((a, b, seen, low, high, share, share >= level and not np.isnan(seen)))
    return pd.DataFrame(rows, columns=columns)


def difference(a: Curve, b: Curve, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of a minus b at sizes that both have, (K,) and resampled (R, K)."""
    at_a, at_b = (
        np.searchsorted(c.sizes, sizes) if c.taught else np.zeros(len(sizes), dtype=int)
        for c in (a, b)
    )
    return a.f1[at_a] - b.f1[at_b], a.samples[:, at_a] - b.samples[:, at_b]


def _common_sizes(a: Curve, b: Curve) -> np.ndarray:
    if a.taught and b.taught:
        return np.intersect1d(a.sizes, b.sizes)
    return a.sizes if a.taught else b.sizes


def _crossing(sizes: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """Documents at which each row of (R, K) last turns positive, (R,); nan where its ends agree."""
    x, ahead = np.log2(sizes), differences > 0
    crosses = ~ahead[:, 0] & ahead[:, -1]
    turns = ~ahead[:, :-1] & ahead[:, 1:]  # (R, K - 1)
    last = len(sizes) - 2 - turns[:, ::-1].argmax(axis=1)  # (R,)
    rows = np.arange(len(differences))
    before, after = differences[rows, last], differences[rows, last + 1]
    rise = np.where(crosses, after - before, 1)
    return np.where(crosses, 2 ** (x[last] - before / rise * (x[last + 1] - x[last])), np.nan)
