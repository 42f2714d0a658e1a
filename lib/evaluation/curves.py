"""Learning curves: F1 against training documents, where two curves cross, and what that says.

A study with `train_sizes` runs its arms as "<approach>@<size>"; one that learns from nothing runs
once, by its plain name. Resamples are of documents and seeds, the same for all arms, so that what
is said of two curves is paired.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from lib.evaluation.intervals import ALPHA, f1_intervals
from lib.evaluation.resampling import AVERAGES, f1_by_seed, resample_f1


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
        See `lib.report.tables.stack_predictions`.
    groups
        See `lib.report.tables.read_groups`.

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

    Variance is that of `intervals`, Var(D) + Var(U + I) / S, the interaction I of documents and
    seeds counted once. Documents are drawn with replacement, the same for all (Efron & Tibshirani
    1993, chapter 6), and what I adds to the resamples is taken out of them (`_without`). The mean
    over seeds moves by a Student's t of S - 1 degrees of freedom times its standard error, by one
    draw for all arms of as many seeds: seed s of any of them learns from the same documents. One
    seed stands for that model.

    Parameters
    ----------
    y_true, y_preds, groups
        See `learning_curves`.

    Raises
    ------
    ValueError
        `average` is not one of `AVERAGES`.
    """
    if average not in AVERAGES:
        raise ValueError(f"average: {average!r} is not one of {', '.join(AVERAGES)}")
    options = {"groups": groups, "num_resamples": num_resamples, "seed": seed}
    samples = resample_f1(y_true, y_preds, **options)
    row = AVERAGES.index(average)
    f1 = {arm: f1_by_seed(y_true, preds)[row] for arm, preds in y_preds.items()}
    moved = _resampled_means(list(f1.values()), [samples[arm][row] for arm in f1], seed)
    found: dict[str, dict[int, tuple[float, np.ndarray]]] = {}
    for (arm, values), of_arm in zip(f1.items(), moved, strict=True):
        approach, size = split_arm(arm)
        found.setdefault(approach, {})[size] = values.mean(), of_arm
    curves = {}
    for approach, by_size in found.items():
        sizes = sorted(by_size)
        values, samples = zip(*(by_size[size] for size in sizes), strict=True)
        curves[approach] = Curve(np.array(sizes), np.array(values), np.stack(samples, axis=1))
    return curves


def _resampled_means(
    f1: Sequence[np.ndarray], samples: Sequence[np.ndarray], seed: int
) -> np.ndarray:
    """Mean F1 of P arms over documents and seeds that might have been, (P, R) in [0, 1].

    Of each arm (S,) F1 by seed, and (S, R) of each seed on the same resampled documents.
    """
    means = np.stack([of_arm.mean(axis=0) for of_arm in samples])  # (P, R)
    num_seeds = np.array([len(values) for values in f1])
    interaction, of_seeds = np.zeros((len(f1), len(f1))), np.zeros_like(means)
    for several in np.unique(num_seeds[num_seeds > 1]):
        chosen = np.flatnonzero(num_seeds == several)
        apart = np.stack([samples[i] - means[i] for i in chosen])  # (P', S, R)
        apart -= apart.mean(axis=2, keepdims=True)
        products = np.einsum("psr,qsr->pq", apart, apart) / (apart.shape[2] - 1)
        interaction[np.ix_(chosen, chosen)] = products / (several - 1) / several
        values = np.stack([f1[i] for i in chosen])  # (P', S)
        of_seeds[chosen] = values @ _moves(several, apart.shape[2], seed).T
    middle = np.array([values.mean() for values in f1])
    of_documents = _without(interaction, means - means.mean(axis=1, keepdims=True))
    return np.clip(middle[:, None] + of_documents + of_seeds, 0, 1)


def _without(covariance: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Samples (P, R) around 0, changed as little as takes this covariance (P, P) out of theirs.

    The optimal transport between normal distributions of both covariances (Dowson & Landau 1982,
    Journal of Multivariate Analysis 12, p. 450); without a covariance the samples stay.
    """
    theirs = samples @ samples.T / (samples.shape[1] - 1)
    root, inverse = _power(theirs, 0.5), _power(theirs, -0.5)
    left = _power(theirs - covariance, 1)  # an estimate may be below 0
    return inverse @ _power(root @ left @ root, 0.5) @ inverse @ samples


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A symmetric matrix (P, P) to a power, of its positive eigenvalues alone."""
    values, vectors = np.linalg.eigh(matrix)
    positive = values > 1e-12 * max(values[-1], 1e-12)
    return vectors[:, positive] * values[positive] ** exponent @ vectors[:, positive].T


def _moves(num_seeds: int, num_resamples: int, seed: int) -> np.ndarray:
    """(R, S) with rows of sum 0: weights of seeds by which their mean is t-distributed."""
    generator = np.random.default_rng([seed, num_seeds])
    apart = generator.standard_normal((num_resamples, num_seeds))
    apart -= apart.mean(axis=1, keepdims=True)
    apart /= np.sqrt(generator.chisquare(num_seeds - 1, (num_resamples, 1)) / (num_seeds - 1))
    return apart / math.sqrt(num_seeds * (num_seeds - 1))


def crossings(curves: Mapping[str, Curve]) -> pd.DataFrame:
    """Where, for each pair, the approach that is ahead at the largest size has got ahead.

    Between sizes, F1 is taken to be linear in the logarithm of the training documents. An approach
    that learns from nothing is a level line. A crossing exists where the two ends of a pair have
    different leaders; of several, the last counts.

    Its p is the share of resamples that do not cross in this direction: at least the larger p of
    the two ends, each of which has to be certain (intersection-union test: Berger 1982,
    Technometrics 24, p. 295). Holm (1979) adjusts it over the pairs.

    Returns
    -------
    DataFrame
        `ahead behind train_size low high share p_holm certain`: at the largest common size `ahead`
        leads; it has got ahead at `train_size` documents (nan if it leads at the smallest size
        too), with a 95 % interval: `low` is 0 where it may lead at the smallest size already,
        `high` infinite where it may not lead at the largest. `share` of the resamples cross in this
        direction; a crossing is `certain` if it is seen and its adjusted p is below 0.05.
    """
    columns = ["ahead", "behind", "train_size", "low", "high", "share", "p_holm"]
    rows = []
    for a, b in combinations(curves, 2):
        sizes = _common_sizes(curves[a], curves[b])
        if len(sizes) < 2:
            continue
        values, samples = difference(curves[a], curves[b], sizes)
        if values[-1] < 0:
            a, b, values, samples = b, a, -values, -samples
        seen, crossing = _crossing(sizes, values[None])[0], _crossing(sizes, samples)
        crosses = (crossing > 0) & (crossing < np.inf)
        low, high = np.quantile(crossing, [ALPHA / 2, 1 - ALPHA / 2], method="inverted_cdf")
        p = (1 + np.count_nonzero(~crosses)) / (1 + len(crosses))
        seen = seen if 0 < seen < np.inf else np.nan
        rows.append((a, b, seen, low, high, crosses.mean(), p))
    table = pd.DataFrame(rows, columns=columns)
    if len(table):
        table["p_holm"] = multipletests(table["p_holm"], method="holm")[1]
    return table.assign(certain=(table["p_holm"] < ALPHA) & table["train_size"].notna())


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
    """Documents at which each row of (R, K) last turns positive, (R,).

    0 where a row is positive at both ends, infinite where it is not at the last.
    """
    x, ahead = np.log2(sizes), differences > 0
    crosses = ~ahead[:, 0] & ahead[:, -1]
    turns = ~ahead[:, :-1] & ahead[:, 1:]  # (R, K - 1)
    last = len(sizes) - 2 - turns[:, ::-1].argmax(axis=1)  # (R,)
    rows = np.arange(len(differences))
    before, after = differences[rows, last], differences[rows, last + 1]
    rise = np.where(crosses, after - before, 1)
    turn = 2 ** (x[last] - before / rise * (x[last + 1] - x[last]))
    return np.where(crosses, turn, np.where(ahead[:, -1], 0, np.inf))
