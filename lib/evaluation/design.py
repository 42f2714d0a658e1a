"""Documents in groups as fewer independent ones: the design effect of a share."""

import numpy as np
from scipy.special import stdtrit
from statsmodels.stats.proportion import proportion_confint

from lib.evaluation.intervals import ALPHA, NORMAL
from lib.evaluation.resampling import group_codes
from lib.evaluation.scores import Groups


def design_effect(hits: np.ndarray, groups: Groups) -> float:
    """The number of grouped documents that show as much of a share of hits as an independent one.

    It is the variance of the share over groups, divided by that over independent documents (Kish
    1965, Survey Sampling, section 5.4). Few hits or misses show too little of either variance. So
    both get the part of 1 / (1 + k) more groups of the typical size m that are hit or missed as
    wholes, where k is the number of hits or of misses, whichever is smaller: our choice.

    The result is 1 where each document is its own group, and at most m. `hits` are (N,) bool,
    `groups` (N,) or None.
    """
    if (codes := group_codes(groups)) is None:
        return 1.0
    sizes, share = np.bincount(codes), hits.mean()
    size = (sizes**2).sum() / len(hits)  # m: mean over documents of their group's size
    of_groups = (np.bincount(codes, hits - share) ** 2).sum() * len(sizes) / max(len(sizes) - 1, 1)
    of_documents = len(hits) * share * (1 - share)
    unseen = 1 / (1 + min(hits.sum(), (~hits).sum()))
    ratio = (of_groups + unseen * size**2) / (of_documents + unseen * size)
    return float(np.clip(ratio, 1, size))


def effective_documents(hits: np.ndarray, groups: Groups = None, *, num_seeds: int = 1) -> float:
    """The number of independent documents whose share of hits has as wide a 95 % interval.

    It is N divided by the `design_effect`, and by (t / z)^2, where t is the 0.975 quantile of
    Student with G - 1 degrees of freedom and z the normal one (Korn & Graubard 1998, Survey
    Methodology 24, p. 193). For `hits` and `groups` see `design_effect`; the answers of `num_seeds`
    seeds to a document count as one.
    """
    count = len(hits) / max(design_effect(hits, groups), num_seeds)
    if (codes := group_codes(groups)) is None:
        return count
    return count * (NORMAL / float(stdtrit(max(codes.max(), 1), 1 - ALPHA / 2))) ** 2


def share_interval(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval, (low, high), of a share of `count` documents, whole or not."""
    low, high = np.round(proportion_confint(share * count, count, method="wilson"), 12)
    return float(low), float(high)
