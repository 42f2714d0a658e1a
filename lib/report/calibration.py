"""Calibration of finished runs as a table, from the predictions that they wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.evaluation.calibration import CALIBRATION_MEASURES, Calibrated, ScoredSplit, automated
from lib.evaluation.design import effective_documents, share_interval
from lib.evaluation.scores import Scores
from lib.runs.finished import read_label_space, read_predictions

WANTED = (0.9, 0.95)  # precisions at which a user may automate answers (our choice)


class ScoredRun(NamedTuple):
    """A run's scores on validation, which chooses thresholds, and on test, which judges them."""

    validation: ScoredSplit
    test: ScoredSplit


def read_scores(runs: pd.DataFrame) -> dict[str, list[ScoredRun]]:
    """The scores of each arm's runs, in the order of seeds; `runs` has `arm seed folder`."""
    by_arm = runs.sort_values("seed").groupby("arm", sort=False)["folder"]
    return {arm: [ScoredRun(*_read_splits(f)) for f in folders] for arm, folders in by_arm}


def _read_splits(folder: Path) -> list[ScoredSplit]:
    label_space, splits = read_label_space(folder), []
    predictions = read_predictions(folder, None)
    for split in ("validation", "test"):
        table = predictions[predictions["split"] == split]
        scores = Scores.from_rows(table, len(label_space)).values.astype(float)
        right = [set(a) == set(b) for a, b in zip(table["y_true"], table["y_pred"], strict=True)]
        groups = table["group"].to_numpy() if "group" in table else None
        truth = label_space.encode(table["y_true"])
        splits.append(ScoredSplit(scores, truth, np.array(right), groups))
    return splits


def calibration_table(
    scored: Mapping[str, Sequence[ScoredRun]], *, multi_label: bool
) -> pd.DataFrame:
    """Calibration of each arm on test, before and after temperature scaling, mean over seeds.

    A row per arm: `arm num_seeds ece ece_scaled temperature brier brier_scaled`, the last five NaN
    without probabilities. For label sets, the ECE is over pairs of document and label with a
    probability of 0.01 or more.

    Single labels have two more numbers for each precision of `WANTED`. `share_at_90` is the share
    of test documents at or above the confidence with which answers were 90 % right on validation.
    `reached_at_90` is the precision of these answers on test, which is often below 90 %. Both
    have 95 % Wilson intervals, `_low` and `_high`, over documents or their groups, not over seeds.
    Decision values are a confidence as well: it need only rank answers.
    """
    rows = []
    for arm, runs in scored.items():
        row = {"arm": arm, "num_seeds": len(runs)} | _mean_measures(runs, multi_label)
        for wanted in () if multi_label else WANTED:
            row |= _mean_automated(runs, wanted)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_measures(runs: Sequence[ScoredRun], multi_label: bool) -> dict[str, float]:
    calibrated = [Calibrated.fit(*run, multi_label=multi_label) for run in runs]
    if None in calibrated:
        return dict.fromkeys(CALIBRATION_MEASURES, np.nan)
    measures = [run.measures() for run in calibrated]
    return {name: float(np.mean([m[name] for m in measures])) for name in CALIBRATION_MEASURES}


def _mean_automated(runs: Sequence[ScoredRun], wanted: float) -> dict[str, float]:
    """Share of answers that are `automated` and their precision, means over runs, with intervals.

    The unit of the intervals is a document, with the answers of all runs to it, or a whole group.
    """
    share, reached = (f"{name}_at_{round(100 * wanted)}" for name in ("share", "reached"))
    given = [automated(*run, wanted) for run in runs]
    if any(of_run is None for of_run in given):
        return _with_interval(share, [], []) | _with_interval(reached, [], [])
    groups = runs[0].test.groups
    groups = np.arange(len(given[0])) if groups is None else groups
    right = [run.test.right[of_run] for run, of_run in zip(runs, given, strict=True)]
    of_right = [groups[of_run] for of_run in given]
    shares = _with_interval(share, given, [groups] * len(runs))
    return shares | _with_interval(reached, right, of_right)


def _with_interval(
    name: str, hits: Sequence[np.ndarray], groups: Sequence[np.ndarray]
) -> dict[str, float]:
    """The mean over runs of the share of hits, with its 95 % interval; NaN if none has answers."""
    share, low, high = np.nan, np.nan, np.nan
    if sum(map(len, hits)):
        share = float(np.mean([of_run.mean() for of_run in hits if len(of_run)]))
        together = np.concatenate(hits), np.concatenate(groups)
        low, high = share_interval(share, effective_documents(*together, num_seeds=len(hits)))
    return {name: share, f"{name}_low": low, f"{name}_high": high}
