"""Finished runs side by side: the tables and predictions that the report is made from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from lib.config.search import searched
from lib.config.study import load_study
from lib.errors import InputError
from lib.evaluation.intervals import QUANTILES, f1_intervals, stretch
from lib.evaluation.jackknife import measure_arms
from lib.evaluation.metrics import RANKING_METRICS
from lib.evaluation.resampling import AVERAGES, group_codes, resample_f1
from lib.evaluation.significance import compare_all
from lib.runs.finished import read_label_space, read_predictions
from lib.runs.record import INPUTS, OPTIONAL_RESOURCES, RESOURCE_KEYS
from lib.storage import ROOT

log = logging.getLogger(__name__)

# Parameters of one run alone, or of its place on disk: differences in them are no change.
OF_A_RUN = {"seed", "train_size", "params_dir", "runs_dir", "figures_dir", "report_to"}


def missing_runs(runs: pd.DataFrame, *, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """The study's runs that are missing, such as "embedding: seed 2"; "" if none is.

    Expected are all `arms` with all `seeds`; without `arms`, those that have run at all. If arms
    have training sizes ("embedding@64"), one without a size is not trained and has the first seed
    alone.
    """
    arms = list(arms) or list(runs["arm"].unique())
    sized = any("@" in arm for arm in arms)
    found = set(zip(runs["arm"], runs["seed"], strict=True))
    parts = []
    for arm in arms:
        expected = seeds[:1] if sized and "@" not in arm else seeds
        if absent := [str(seed) for seed in expected if (arm, seed) not in found]:
            parts.append(f"{arm}: seed{'s' if len(absent) > 1 else ''} {', '.join(absent)}")
    return "; ".join(parts)


def changed_params(runs: pd.DataFrame, study_dir: Path) -> str:
    """Parameters of runs that differ from the study's files; "" if there are none.

    An example is "embedding: learning_rate is 0.004, in its file 0.002", of a run that was made by
    hand. `study_dir` contains the study's parameter files; if it does not exist, no run differs.
    """
    arms = load_study(study_dir) if study_dir.is_dir() else {}
    changed = dict.fromkeys(
        f"{run.arm}: {key} is {run.params[key]!r}, in its file {asked!r}"
        for run in runs.itertuples()
        if (arm := run.arm.partition("@")[0]) in arms
        for key, asked in arms[arm].model_dump().items()
        if key not in OF_A_RUN
        and not (key in searched(arms[arm]) and run.params.get("search") == arms[arm].search)
        and run.params.get(key, asked) != asked
        and not (key == "num_epochs" and run.params.get("min_steps"))  # min_steps raises it
        and not (key == "max_length" and asked == "auto")  # a run makes it a number
    )  # once for all seeds
    return "; ".join(changed)


def by_size(runs: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The runs at each training size, the largest last; "embedding@64" is named "embedding" there.

    Arms without a size are at every size. A study without sizes has the one size 0 with all runs.
    """
    names = runs["arm"].str.partition("@")
    sizes = pd.to_numeric(names[2]).fillna(0).astype(int)
    found = {}
    for size in sorted(set(sizes[sizes > 0])) or [0]:
        at_size = (sizes == 0) | (sizes == size)
        found[size] = runs[at_size].assign(arm=names[0][at_size]).reset_index(drop=True)
    return found


def differing_params(runs: pd.DataFrame) -> pd.DataFrame:
    """Parameters that differ between the arms that have them, a row each, a column per arm."""
    first = runs.groupby("arm", sort=False)["params"].first()
    table = pd.DataFrame(first.tolist(), index=first.index).astype(object).T
    table = table.drop(index=["arm", "seed", "notebook", *INPUTS], errors="ignore")
    table = table[[len({str(value) for value in row.dropna()}) > 1 for _, row in table.iterrows()]]
    return table.map(lambda x: f"{x:g}" if isinstance(x, float) else x).where(table.notna(), "–")


def read_table(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The CSV files `name` of all runs that have one, with `arm` and `seed`; empty if none has."""
    tables = [
        pd.read_csv(run["folder"] / name).assign(arm=run["arm"], seed=run["seed"])
        for _, run in runs.iterrows()
        if (run["folder"] / name).exists()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def drop_unsized(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without those of an arm at no training size that has run at sizes too.

    Such runs are left from before the study had training sizes; a warning names each.
    """
    parts = runs["arm"].str.partition("@")
    left = runs["arm"].isin(parts[0][parts[1] == "@"])
    for folder in runs["folder"][left]:
        log.warning("%s: left out, for the study has training sizes now; remove it", folder)
    return runs[~left].reset_index(drop=True)


def stack_predictions(runs: pd.DataFrame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Truth of the test split, (N, C) bool, and predictions by arm, (S, N, C) bool.

    Arms are sorted by mean micro-F1, the best first; seeds ascend. `runs` has `arm seed folder
    micro_f1`.
    """
    label_space = read_label_space(runs["folder"].iloc[0])

    def encode(folder: Path, column: str) -> np.ndarray:
        labels = read_predictions(folder, columns=[column])[column]
        return csr_array(label_space.encode(labels)).toarray()

    order = runs.groupby("arm")["micro_f1"].mean().sort_values(ascending=False, kind="stable")
    seeds = runs.sort_values("seed").groupby("arm")["folder"]
    y_preds = {
        arm: np.stack([encode(folder, "y_pred") for folder in seeds.get_group(arm)])
        for arm in order.index
    }
    return encode(runs["folder"].iloc[0], "y_true"), y_preds


def read_groups(runs: pd.DataFrame) -> np.ndarray | None:
    """The group of each test document, (N,) str; None where the study has no `group_column`.

    Raises
    ------
    InputError
        An earlier version wrote the run, without its groups.
    """
    run = runs.iloc[0]
    column = run["params"].get("group_column")
    if not column:
        return None
    table = read_predictions(run["folder"])
    if "group" not in table:
        raise InputError(
            f"{run['folder'] / 'predictions.parquet'}: no column 'group', although group_column is "
            f"{column!r}: an earlier version wrote this run; run the arm again"
        )
    return table["group"].to_numpy()


def units_of(groups: np.ndarray | None) -> str:
    """The units that intervals are over, for captions: "test documents", or groups of them."""
    codes = group_codes(groups)
    if codes is None:
        return "test documents"
    return f"{codes.max() + 1:,} whole groups of test documents"


def compare_runs(
    runs: pd.DataFrame,
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    num_resamples: int,
    groups: np.ndarray | None = None,
    reference: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables behind most figures: F1 and costs by arm, and differences by pair.

    `y_true` and `y_preds` are those of `stack_predictions`, `groups` those of `read_groups`; for
    the other parameters see `compare_all`. Raises `ParamsError` if the `reference` has not run.

    Returns
    -------
    comparison
        A row per arm, best micro-F1 first: F1 with 95 % intervals
        (`lib.evaluation.intervals.f1_intervals`), accuracy, ranking metrics and resources, means
        over seeds. The `num_labels_without_test` labels count 0 in `macro_f1`;
        `macro_f1_supported` leaves them out.
    pairwise
        See `compare_all`.
    """
    options = {"reference": reference, "groups": groups, "num_resamples": num_resamples}
    pairwise = compare_all(y_true, y_preds, **options)
    intervals = f1_intervals(y_true, y_preds, groups=groups).set_index("arm")
    rows = []
    for arm in y_preds:
        group = runs[runs["arm"] == arm]
        row = {"arm": arm} | intervals.loc[arm].to_dict() | {"num_seeds": len(group)}
        for key in ("accuracy", "samples_f1", "num_labels_without_test", *RANKING_METRICS):
            row[key] = pd.to_numeric(group[key]).mean()
        for key in (*RESOURCE_KEYS, *OPTIONAL_RESOURCES):
            number = pd.api.types.is_float_dtype(group[key])
            row[key] = group[key].mean() if number else group[key].iloc[0]
        row["num_processes"] = max(run.get("num_processes", 1) for run in group["params"])
        rows.append(row)
    return pd.DataFrame(rows), pairwise


def compare_with_teachers(
    runs: pd.DataFrame,
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    groups: np.ndarray | None = None,
    num_resamples: int,
) -> pd.DataFrame:
    """The share of their teachers' F1 that students keep, and its cost: a row per student.

    A student is an arm trained on the answers of another, its teacher (parameter `teacher`); one
    whose teacher has not run has no row. For parameters see `compare_runs`.

    Returns
    -------
    DataFrame
        `student teacher`. `micro_f1_kept` and `macro_f1_kept`: the student's F1 over the teacher's,
        means over seeds, each with a 95 % percentile interval, `_low` and `_high`. For that, both
        are scored on the same resampled documents, or on whole groups, whose interval is widened by
        `lib.evaluation.intervals.stretch`. `speedup`: ratio of documents/s at inference.
        `params_share`: the student's parameters over the teacher's. `train_seconds`: those of the
        student, with the teacher's scoring of its documents; `train_seconds_with_teacher`: with the
        teacher's own training too.
    """
    columns = [*AVERAGES, "infer_docs_per_second", "total_params", "train_seconds"]
    means = runs.groupby("arm")[columns].mean()
    teachers = {run["arm"]: run["params"].get("teacher") for _, run in runs.iterrows()}
    rows = []
    for student, teacher in teachers.items():
        if teacher not in means.index:
            continue
        ours, theirs = means.loc[student], means.loc[teacher]
        row = {"student": student, "teacher": teacher}
        # F1 kept, resampled over the documents of both
        pair = {arm: y_preds[arm] for arm in (student, teacher)}
        samples = resample_f1(y_true, pair, groups=groups, num_resamples=num_resamples)
        kept = samples[student].mean(axis=1) / samples[teacher].mean(axis=1)  # (2, R)
        measured = measure_arms(y_true, pair, groups=groups)
        for average, ratios in zip(AVERAGES, kept, strict=True):
            share = ours[average] / theirs[average]
            wider = stretch([measured[arm, average] for arm in pair])
            low, high = share + wider * (np.quantile(ratios, QUANTILES) - share)
            row[f"{average}_kept"] = share
            row |= {f"{average}_kept_low": max(low, 0.0), f"{average}_kept_high": high}
        rows.append(row | {
            "speedup": ours["infer_docs_per_second"] / theirs["infer_docs_per_second"],
            "params_share": ours["total_params"] / theirs["total_params"],
            "train_seconds": ours["train_seconds"],
            "train_seconds_with_teacher": ours["train_seconds"] + theirs["train_seconds"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def paper_context(comparison: pd.DataFrame, *, data: str) -> pd.DataFrame:
    """Our arms, the best first, and below them the paper's (arXiv 2512.12677), for orientation.

    `source system data f1 f1_low f1_high trainable_params`, where `source` is "this study" or
    "context: other data". Our F1 is micro-F1, and `data` the name of our documents. None of the
    paper's rows is a target for ours: its data, models, splits and average of F1 differ or are
    unknown (05_compare says which).
    """
    ours = comparison.rename(columns=lambda name: name.removeprefix("micro_"))
    ours = ours.rename(columns={"arm": "system"}).assign(source="this study", data=data)
    theirs = pd.read_csv(ROOT / "figures" / "paper.csv").assign(source="context: other data")
    columns = ["source", "system", "data", "f1", "f1_low", "f1_high", "trainable_params"]
    return pd.concat([ours, theirs], ignore_index=True)[columns]
