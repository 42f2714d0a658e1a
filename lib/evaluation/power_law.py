"""What more training documents would bring, by a power law, and how far to trust it.

Test error falls about as a power of the training documents, error(n) = a + b n^-c (Cortes et al.
1993, "Learning curves: asymptotic values and rate of convergence", NeurIPS 6; Hestness et al. 2017,
arXiv 1712.00409, section 4). It is an observation, not a guarantee: the largest size is held out
and predicted from the smaller ones, and the miss stands beside every forecast.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.evaluation.curves import Curve

FEWEST_SIZES = 3  # below it any law fits (chosen here)
FEWEST_FOR_FLOOR = 5  # sizes for which an error that stays, a, can be told from a slow fall
EXPONENTS = np.geomspace(1e-3, 3, 400)  # c from flat to steeper than anything in those papers


class PowerLaw(NamedTuple):
    """error(n) = a + b n^-c; each of shape (R,) for R curves."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def error(self, train_size: float) -> np.ndarray:
        """At a training size, (R,)."""
        return self.a + self.b * float(train_size) ** -self.c


def fit_power_law(sizes: np.ndarray, errors: np.ndarray, *, floor: bool) -> PowerLaw:
    """Least squares in a >= 0 and b >= 0 for each exponent of a grid; the best exponent is taken.

    Given c, the law is linear in a and b (variable projection: Golub & Pereyra 1973), so R curves
    are fitted at once and no search can get stuck.

    Parameters
    ----------
    sizes, errors
        (K,) training documents, and (R, K) errors in [0, 1].
    floor
        Whether a is fitted; otherwise it is 0.
    """
    middle = np.exp(np.log(sizes).mean())  # keeps n^-c near 1
    x = (sizes / middle) ** -EXPONENTS[:, None]  # (G, K)
    count, sum_x, sum_xx = len(sizes), x.sum(axis=1), (x**2).sum(axis=1)  # (G,)
    sum_e, sum_xe = errors.sum(axis=1, keepdims=True), errors @ x.T  # (R, 1), (R, G)
    b = sum_xe / sum_xx  # (R, G), with a = 0
    a = np.zeros_like(b)
    if floor:
        free = (count * sum_xe - sum_x * sum_e) / (count * sum_xx - sum_x**2)
        free = np.maximum(free, 0)
        stays = (sum_e - free * sum_x) / count
        a, b = np.maximum(stays, 0), np.where(stays >= 0, free, b)
    squares = count * a**2 + b**2 * sum_xx + 2 * (a * b * sum_x - a * sum_e - b * sum_xe)
    best = squares.argmin(axis=1)
    rows = np.arange(len(errors))
    c = EXPONENTS[best]
    return PowerLaw(a[rows, best], b[rows, best] * middle**c, c)


def extrapolate(curve: Curve, *, factor: float = 2) -> dict[str, float]:
    """F1 at `factor` times the largest training size, if error goes on falling as a power law.

    The law is fitted to the curve and to each of its resamples, so the intervals cover the choice
    of test documents and seeds, not that another law may hold beyond the largest size. Its error
    never rises with more documents. With fewer than six sizes, of which one is held out, a is taken
    to be 0.

    Returns
    -------
    dict
        `train_size f1 low high`, the forecast; `gain gain_low gain_high`, from the largest size;
        `exponent`, c; `held_out_size` and `miss miss_low miss_high`: the largest size's F1 as
        predicted from the smaller ones minus the one that was reached. All intervals are 95 %.

    Raises
    ------
    ValueError
        The curve has fewer than three sizes.
    """
    if len(curve.sizes) < FEWEST_SIZES:
        raise ValueError(
            f"{len(curve.sizes)} training sizes: a forecast needs {FEWEST_SIZES} or more; add some "
            "to train_sizes"
        )
    largest = curve.sizes[-1]
    known = len(curve.sizes)
    floor = known - 1 >= FEWEST_FOR_FLOOR  # the law that is tried is the law that forecasts
    f1, samples, exponent = _forecast(curve, known, factor * largest, floor=floor)
    held_out, of_held_out, _ = _forecast(curve, known - 1, largest, floor=floor)
    row = {"train_size": factor * largest, "f1": f1, "exponent": exponent, "held_out_size": largest}
    row |= {"gain": f1 - curve.f1[-1], "miss": held_out - curve.f1[-1]}
    for name, values in {
        "": samples,
        "gain_": samples - curve.samples[:, -1],
        "miss_": of_held_out - curve.samples[:, -1],
    }.items():
        row[f"{name}low"], row[f"{name}high"] = np.quantile(values, [0.025, 0.975])
    return row


def _forecast(
    curve: Curve, num_sizes: int, train_size: float, *, floor: bool
) -> tuple[float, np.ndarray, float]:
    """F1, its resamples (R,) and the exponent, from the first sizes of a curve."""
    sizes, errors = curve.sizes[:num_sizes], 1 - curve.f1[None, :num_sizes]
    law = fit_power_law(sizes, errors, floor=floor)
    resampled = fit_power_law(sizes, 1 - curve.samples[:, :num_sizes], floor=floor)
    f1 = 1 - law.error(train_size)[0]
    return float(f1), 1 - resampled.error(train_size), float(law.c[0])


def forecasts(curves: Mapping[str, Curve], *, factor: float = 2) -> pd.DataFrame:
    """`approach` and what `extrapolate` returns, a row for each curve with three sizes or more."""
    rows = [
        {"approach": approach} | extrapolate(curve, factor=factor)
        for approach, curve in curves.items()
        if curve.taught and len(curve.sizes) >= FEWEST_SIZES
    ]
    return pd.DataFrame(rows)
