"""Learning curves: F1 against training documents, and the sizes at which two curves cross.

A study with several training sizes (parameter `train_sizes`) runs its arms as "<approach>@<size>";
an untrained arm runs once, by its plain name. Documents and seeds are resampled, the same for all
arms, so that statements about two curves are paired.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from lib.evaluation.intervals import ALPHA, QUANTILES, f1_intervals, stretch
from lib.evaluation.jackknife import measure_arms
from lib.evaluation.resampling import AVERAGES, SEED, f1_by_seed, group_codes, resample_f1

MICRO = AVERAGES.index("micro_f1")


@dataclass(frozen=True)
class Curve:
    """F1 of one approach at K training sizes, and of R resamples of documents and seeds."""

    sizes: np.ndarray  # (K,) int64, training documents, ascending; [0] for an untrained approach
    f1: np.ndarray  # (K,) float64, mean over seeds
    samples: np.ndarray  # (R, K) float64
    num_groups: float = math.inf  # groups that were resampled as wholes; infinite: documents were

    @property
    def uses_training_data(self) -> bool:
        """True if the approach learns from training documents."""
        return bool(self.sizes[-1])


def split_arm(arm: str) -> tuple[str, int]:
    """Approach and size: "embedding@64" as ("embedding", 64); a name without a size has size 0."""
    approach, _, size = arm.partition("@")
    return approach, int(size or 0)


def learning_curves(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], *, groups: np.ndarray | None = None
) -> pd.DataFrame:
    """A row per approach and size, sorted by both: `approach train_size num_seeds`, F1, intervals.

    Parameters and the columns from `num_seeds` on are those of
    `lib.evaluation.intervals.f1_intervals`; arms are named as in the module. `train_size` is 0 for
    an untrained approach.
    """
    table = f1_intervals(y_true, y_preds, groups=groups)
    approaches, sizes = zip(*map(split_arm, table.pop("arm")), strict=True)
    table.insert(0, "approach", approaches)
    table.insert(1, "train_size", sizes)
    return table.sort_values(["approach", "train_size"], ignore_index=True)


def seed_points(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run: `approach train_size seed micro_f1 macro_f1`.

    `runs` has `arm`, named as in the module, `seed` and both averages.
    """
    names = [split_arm(arm) for arm in runs["arm"]]
    points = pd.DataFrame(names, columns=["approach", "train_size"], index=runs.index)
    return points.join(runs[["seed", *AVERAGES]])


def resample_curves(
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    groups: np.ndarray | None = None,
    num_resamples: int = 5000,
) -> dict[str, Curve]:
    """Micro-F1 of each approach by size, resampled jointly over test documents and training seeds.

    The variance is that of `lib.evaluation.intervals`, Var(D) + Var(U + I) / S, in which the
    interaction I of documents and seeds is counted once.

    Documents are drawn with replacement, the same for all arms (Efron & Tibshirani 1993, chapter
    6). The variance that I adds to these resamples is taken out (`_without`), as the draw of seeds
    has it already. Where whole groups are drawn, the resamples' distances from the mean are
    multiplied by `stretch`, because few groups vary too little.

    For other seeds, the mean moves by its standard error times a Student's t of S - 1 degrees of
    freedom. Arms with equally many seeds share the draw, because their seeds s learn from the same
    documents. With one seed, the curve is that of the one trained model.

    For parameters see `lib.evaluation.intervals.f1_intervals`; arms are named as in the module.
    """
    resampled = resample_f1(y_true, y_preds, groups=groups, num_resamples=num_resamples)
    f1 = {arm: f1_by_seed(y_true, preds)[MICRO] for arm, preds in y_preds.items()}
    num_groups, wider = math.inf, 1.0
    if (codes := group_codes(groups)) is not None:
        measured = measure_arms(y_true, y_preds, groups=groups)
        num_groups, wider = codes.max() + 1, stretch([measured[arm, "micro_f1"] for arm in y_preds])
    samples = [resampled[arm][MICRO] for arm in f1]
    means = _resampled_means(list(f1.values()), samples, wider=wider)
    # the arms of each approach, by their training size
    arms: dict[str, dict[int, tuple[float, np.ndarray]]] = {}
    for (arm, values), samples in zip(f1.items(), means, strict=True):
        approach, size = split_arm(arm)
        arms.setdefault(approach, {})[size] = values.mean(), samples
    curves = {}
    for approach, by_size in arms.items():
        sizes = np.array(sorted(by_size))
        values, samples = zip(*(by_size[size] for size in sizes), strict=True)
        curves[approach] = Curve(sizes, np.array(values), np.stack(samples, axis=1), num_groups)
    return curves


def _resampled_means(
    f1: Sequence[np.ndarray], samples: Sequence[np.ndarray], *, wider: float
) -> np.ndarray:
    """Mean F1 of P arms, resampled over documents and seeds, (P, R) in [0, 1].

    `f1` has (S,) of each arm, by seed; `samples` has (S, R) of each, by seed on the same resampled
    documents. Distances from the mean that are due to documents are multiplied by `wider`.
    """
    # F1 on other documents alone
    means = np.stack([of_arm.mean(axis=0) for of_arm in samples])  # (P, R)
    num_seeds = np.array([len(values) for values in f1])
    interaction, of_seeds = np.zeros((len(f1), len(f1))), np.zeros_like(means)
    for several in np.unique(num_seeds[num_seeds > 1]):
        # covariance, between arms of S seeds, of their interaction with documents
        chosen = np.flatnonzero(num_seeds == several)
        apart = np.stack([samples[i] - means[i] for i in chosen])  # (P', S, R)
        apart -= apart.mean(axis=2, keepdims=True)
        products = np.einsum("psr,qsr->pq", apart, apart) / (apart.shape[2] - 1)
        interaction[np.ix_(chosen, chosen)] = products / (several - 1) / several
        # movement of their means with other seeds
        values = np.stack([f1[i] for i in chosen])  # (P', S)
        of_seeds[chosen] = values @ _moves(several, apart.shape[2]).T
    middle = np.array([values.mean() for values in f1])
    of_documents = wider * _without(interaction, means - means.mean(axis=1, keepdims=True))
    return np.clip(middle[:, None] + of_documents + of_seeds, 0, 1)


def _without(covariance: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Samples, (P, R) around 0, with a smaller covariance, changed as little as this takes.

    `covariance`, (P, P), is subtracted from theirs; 0 changes nothing. The map is the optimal
    transport between normal distributions of the covariances before and after (Dowson & Landau
    1982, Journal of Multivariate Analysis 12, p. 450).
    """
    theirs = samples @ samples.T / (samples.shape[1] - 1)
    root, inverse = _power(theirs, 0.5), _power(theirs, -0.5)
    left = _power(theirs - covariance, 1)  # without negative eigenvalues of the estimate
    return inverse @ _power(root @ left @ root, 0.5) @ inverse @ samples


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A symmetric matrix (P, P) to a power, of its positive eigenvalues alone."""
    values, vectors = np.linalg.eigh(matrix)
    positive = values > 1e-12 * max(values[-1], 1e-12)
    return vectors[:, positive] * values[positive] ** exponent @ vectors[:, positive].T


def _moves(num_seeds: int, num_resamples: int) -> np.ndarray:
    """Weights (R, S), rows of sum 0: F1 by seed times these is a t-distributed move of the mean."""
    generator = np.random.default_rng([SEED, num_seeds])
    apart = generator.standard_normal((num_resamples, num_seeds))
    apart -= apart.mean(axis=1, keepdims=True)
    apart /= np.sqrt(generator.chisquare(num_seeds - 1, (num_resamples, 1)) / (num_seeds - 1))
    return apart / math.sqrt(num_seeds * (num_seeds - 1))


def crossings(curves: Mapping[str, Curve]) -> pd.DataFrame:
    """Training documents at which the approach that leads at the largest size takes the lead.

    F1 is taken to be linear in the logarithm of the training documents between sizes; an untrained
    approach is a level line. A pair crosses if the one that leads at the largest common size is not
    the first to lead; of several crossings, the last counts. A tie is no lead.

    The p of a crossing is (1 + n) / (1 + R), where n of R resamples do not cross in its direction.
    It is at least the larger p of the first and the last lead, both of which have to be certain
    (intersection-union test: Berger 1982, Technometrics 24, p. 295). Where G groups were resampled
    it is at least 2^(1-G), the least p of a test that exchanges groups. Holm (1979) adjusts it over
    the pairs.

    Returns
    -------
    DataFrame
        A row per pair: `ahead behind train_size low high share p_holm certain`. `ahead` leads at
        the largest common size and takes the lead at `train_size` documents, NaN if it is the first
        to lead too. `low` and `high` are the 95 % interval of `train_size`: 0 where `ahead` may be
        the first to lead, infinite where it may not lead at the largest size.
        `share` is that of the resamples which cross in this direction. A crossing is `certain` if
        the curves themselves cross and the adjusted p is below 0.05. Pairs with fewer than two
        common sizes have no row.
    """
    columns = ["ahead", "behind", "train_size", "low", "high", "share", "p_holm"]
    rows = []
    for a, b in combinations(curves, 2):
        sizes = _common_sizes(curves[a], curves[b])
        if len(sizes) < 2:
            continue
        # a is the one that leads at the largest size
        values, samples = difference(curves[a], curves[b], sizes)
        if values[-1] < 0:
            a, b, values, samples = b, a, -values, -samples
        # the crossing of the curves, and those of their resamples, (R,)
        seen, crossing = _crossing(sizes, values[None])[0], _crossing(sizes, samples)
        seen = seen if 0 < seen < np.inf else np.nan
        low, high = np.quantile(crossing, QUANTILES, method="inverted_cdf")
        crosses = (crossing > 0) & (crossing < np.inf)
        p = (1 + np.count_nonzero(~crosses)) / (1 + len(crosses))
        p = max(p, 2.0 ** (1 - curves[a].num_groups))
        rows.append((a, b, seen, low, high, crosses.mean(), p))
    table = pd.DataFrame(rows, columns=columns)
    if len(table):
        table["p_holm"] = multipletests(table["p_holm"], method="holm")[1]
    return table.assign(certain=(table["p_holm"] < ALPHA) & table["train_size"].notna())


def difference(a: Curve, b: Curve, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of a minus b at `sizes` that both have, (K,), and the same of each resample, (R, K)."""
    at_a, at_b = (np.searchsorted(c.sizes, sizes * c.uses_training_data) for c in (a, b))
    values, samples = a.f1[at_a] - b.f1[at_b], a.samples[:, at_a] - b.samples[:, at_b]
    return values.round(12), samples.round(12)  # rounding errors are less


def _common_sizes(a: Curve, b: Curve) -> np.ndarray:
    if a.uses_training_data and b.uses_training_data:
        return np.intersect1d(a.sizes, b.sizes)
    return a.sizes if a.uses_training_data else b.sizes


def _crossing(sizes: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """Documents at which each row of differences (R, K) turns positive for good, (R,).

    0 where a row is positive before it is negative, infinite where it is not positive at the last.
    """
    x, rows, ahead = np.log2(sizes), np.arange(len(differences)), differences > 0
    first = differences[rows, (differences != 0).argmax(axis=1)]  # that is no tie, (R,)
    crosses = (first < 0) & ahead[:, -1]
    # the first lead behind the last negative difference, (R,)
    behind = len(sizes) - 1 - (differences < 0)[:, ::-1].argmax(axis=1)
    lead = (ahead & (np.arange(len(sizes)) > behind[:, None])).argmax(axis=1)
    # the zero of the line between the size before and that of the lead
    before, after = differences[rows, lead - 1], differences[rows, lead]
    rise = np.where(crosses, after - before, 1)
    turn = 2 ** (x[lead - 1] - before / rise * (x[lead] - x[lead - 1]))
    return np.where(crosses, turn, np.where(ahead[:, -1], 0, np.inf))
