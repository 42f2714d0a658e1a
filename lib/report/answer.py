"""The answer over many tasks: finished studies side by side, their effects pooled, in sentences.

A task is a data set and a question to its documents; a cell is a task with one model and one number
of training documents. An effect is a difference in micro-F1 between two arms in a cell.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config.arms import AnswerParams, StudyParams
from lib.config.study import load_params, study_files
from lib.errors import InputError
from lib.evaluation.pooled import Pooled, compare_ranks, leave_one_out, per_task, pool, regress
from lib.report.recommendation import HEAD, PROMPT, QUESTION
from lib.report.wording import format_delta, join
from lib.storage import ROOT, atomic_path

OTHERS = ("encoder", "tfidf", "frozen")
NAMES = {HEAD: "head", PROMPT: "prompt", "encoder": "encoder", "tfidf": "TF-IDF",
         "frozen": "frozen"}  # fmt: skip
IN_WORDS = {"encoder": "the encoder", "tfidf": "TF-IDF"}
MIN_TASKS = 3  # least number for a mean over tasks (our choice)
MIN_FOR_NEW = 5  # tasks from which a new one is predicted: fewer leave anything open (our choice)
# Columns of a search's table that are not parameters
NO_PARAMETERS = ["epochs", "micro_f1", "train_seconds", "chosen", "seed", "billions"]
MIN_VALUES = 3  # least number of values among which the best can be an inner one


class AnswerResults:
    """Results of the finished studies "<task>-<model>" of a list of tasks and models.

    Attributes
    ----------
    folder
        The folder of the answer's tables and figures.
    missing
        Names of the list's studies without results.
    incomplete
        Arms, training sizes and seeds that studies lack, a line for each with the studies' names.

    Raises
    ------
    InputError
        No study of the list has finished.
    """

    def __init__(self, params: AnswerParams) -> None:
        self.params = params
        self.figures = ROOT / params.figures_dir
        self.folder = self.figures / params.study
        self.missing: list[str] = []
        self._lacks: dict[str, list[str]] = defaultdict(list)
        self._effects, self._scores, self._tries = [], [], []
        planned = ROOT / params.params_dir / params.study
        for task, kind in params.tasks.items():
            for model, billions in params.models.items():
                folder = planned / f"{task}-{model}"
                if folder.is_dir():
                    about = {"task": task, "kind": kind, "model": model, "billions": billions}
                    self._read(folder, about)
        self.incomplete = [f"{join(names)}: {lack}" for lack, names in self._lacks.items()]
        if not self._effects:
            raise InputError(
                f"{self.figures}: no study of {params.study!r} has finished; run one, for example "
                f"`make study PARAMS=params/{params.study} STUDY={(self.missing or ['...'])[0]}`"
            )

    def _read(self, planned: Path, about: Mapping[str, Any]) -> None:
        study = planned.name
        files = [self.figures / study / f"{name}.csv" for name in ("effects", "sizes")]
        if not all(file.exists() for file in files):
            self.missing.append(study)
            return
        effects, scores = map(pd.read_csv, files)
        if lacking := [NAMES[arm] for arm in QUESTION if arm not in set(scores["arm"])]:
            self._lacks[f"{join(lacking)} did not run"].append(study)
        elif lacks := _lacking_cells(load_params(*study_files(planned).common), scores):
            self._lacks[lacks].append(study)
        self._effects.append(effects[effects["metric"] == "micro_f1"].assign(**about))
        self._scores.append(scores.assign(**about))
        tries = self.figures / study / "search.csv"
        if tries.exists():
            self._tries.append(pd.read_csv(tries).assign(**about))

    def effects(self, first: str, second: str) -> pd.DataFrame:
        """Differences in micro-F1 of two arms, first minus second, one row per cell.

        `task kind model billions train_size num_labels effect low high error`, with the 95 %
        interval and the standard error of the effect. There is no row for a cell whose study lacks
        one of the arms, or whose error is 0 or not known.
        """
        table = pd.concat(self._effects)
        pairs = []
        for a, b, sign in ((first, second, 1), (second, first, -1)):
            rows = table[(table["arm_a"] == a) & (table["arm_b"] == b)]
            low, high = np.sort(sign * rows[["low", "high"]].to_numpy(), axis=1).T
            pairs.append(rows.assign(effect=sign * rows["delta"], low=low, high=high))
        found = pd.concat(pairs, ignore_index=True)
        columns = ["task", "kind", "model", "billions", "train_size", "num_labels"]
        return found.loc[found["error"] > 0, [*columns, "effect", "low", "high", "error"]]

    def _by_documents(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows, with one name for tasks that have the same documents: these count as one."""
        return table.assign(task=table["task"].replace(self.params.same_documents))

    @property
    def units(self) -> str:
        """Units of the intervals, for captions and the answer."""
        several = any(scores["num_seeds"].max() > 1 for scores in self._scores)
        return f"test documents{' and seeds' if several else ', with one seed'}"

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Head minus prompt: see `effects`."""
        return self.effects(HEAD, PROMPT)

    def scores(self) -> pd.DataFrame:
        """Micro-F1 by cell: `task model train_size num_labels`, and a column per arm of `NAMES`."""
        keys = ["task", "model", "train_size", "num_labels"]
        table = pd.concat(self._scores, ignore_index=True)
        table = table.pivot_table(index=keys, columns="arm", values="micro_f1", sort=False)
        return table[[arm for arm in NAMES if arm in table]].reset_index()

    def pooled(self, first: str, second: str) -> Pooled | None:
        """The mean difference of two arms over tasks, first minus second.

        None for fewer than `MIN_TASKS` tasks. With fewer than `MIN_FOR_NEW`, the prediction for a
        new task is NaN.
        """
        return _pooled(per_task(self._by_documents(self.effects(first, second))))

    def by_part(self) -> pd.DataFrame:
        """Head minus prompt, pooled within each kind, model and training size.

        `part value num_tasks mean low high new_low new_high`, as in `Pooled`. Parts of fewer than
        `MIN_TASKS` tasks have no row.
        """
        rows = []
        for part in ("kind", "model", "train_size"):
            for value, cells in self.cells.groupby(part, sort=False):
                if pooled := _pooled(per_task(self._by_documents(cells))):
                    rows.append({"part": part, "value": value} | vars(pooled))
        columns = ["part", "value", "num_tasks", "mean", "low", "high", "new_low", "new_high"]
        return pd.DataFrame(rows, columns=columns)

    def slopes(self) -> pd.DataFrame:
        """Head minus prompt against properties of tasks: see `lib.evaluation.pooled.regress`.

        Numbers are log2, so that a slope is per doubling.
        """
        numbers = self.cells[["billions", "train_size", "num_labels"]]
        logs = np.log2(numbers).rename(columns=lambda x: f"log_{x.removeprefix('num_')}")
        cells = self._by_documents(self.cells.join(logs))
        of_cells, of_tasks = ("log_billions", "log_train_size"), ("log_labels", "kind")
        return regress(cells, of_cells=of_cells, of_tasks=of_tasks)

    def left_out(self) -> pd.DataFrame:
        """Each task against all others pooled: see `lib.evaluation.pooled.leave_one_out`.

        Empty for `MIN_TASKS` tasks or fewer.
        """
        tasks = per_task(self._by_documents(self.cells))
        return leave_one_out(tasks) if len(tasks) > MIN_TASKS else pd.DataFrame()

    def ranks(self) -> tuple[pd.Series, float, float, int] | None:
        """Mean ranks of the arms, Friedman's p, the critical difference and the number of tasks.

        Ranked are the arms that all tasks have, by their mean micro-F1 over those cells of a task
        that contain all of these arms. None for fewer than three arms or `MIN_TASKS` tasks. For
        the first three see `lib.evaluation.pooled.compare_ranks`.
        """
        table = self._by_documents(pd.concat(self._scores).assign(study=lambda x: x["task"]))
        table, keys = table[table["arm"].isin(NAMES)], ["task", "study", "model", "train_size"]
        table = table.pivot_table(index=keys, columns="arm", values="micro_f1", sort=False)
        by_task = table.notna().groupby("task", sort=False).any()
        table = table.loc[:, by_task.all()].dropna()  # arms of every task, in cells that all share
        table = table.groupby("task", sort=False).mean()
        if table.shape[0] < MIN_TASKS or table.shape[1] < 3:
            return None
        return *compare_ranks(table), len(table)

    def edges(self) -> pd.DataFrame:
        """Searches whose chosen value is the lowest or highest tried: a better one may be beyond.

        A row per arm and parameter: `arm parameter searches lowest highest`, the last three numbers
        of searches. Counted are parameters that are numbers, in searches that tried at least
        `MIN_VALUES` different ones.
        """
        rows = []
        for tries in self._tries:
            for (arm, _), tried in tries.groupby(["arm", "seed"]):
                best = tried[tried["chosen"]].iloc[0]
                numbers = tried.drop(columns=NO_PARAMETERS).select_dtypes("number")
                rows += [
                    {"arm": arm, "parameter": name, "searches": 1,
                     "lowest": best[name] == values.min(), "highest": best[name] == values.max()}
                    for name, values in numbers.items()
                    if values.nunique() >= MIN_VALUES
                ]  # fmt: skip
        columns = ["arm", "parameter", "searches", "lowest", "highest"]
        table = pd.DataFrame(rows, columns=columns)
        return table.groupby(columns[:2], sort=False).sum().astype(int).reset_index()

    def costs(self) -> pd.DataFrame:
        """Seconds of training and documents per second of each arm, over the head's.

        `arm train_seconds infer_docs_per_second`, geometric means of the ratios over cells.
        """
        table = pd.concat(self._scores).set_index(["task", "model", "train_size"])
        own, costs = table[table["arm"] == HEAD], ["train_seconds", "infer_docs_per_second"]
        rows = []
        for arm in (PROMPT, *OTHERS):
            other = table[table["arm"] == arm]
            logs = [np.log((other[cost] / own[cost]).dropna()).mean() for cost in costs]
            if not np.isnan(logs).any():  # NaN: no cell has this cost of both arms
                rows.append((arm, *np.exp(logs)))
        return pd.DataFrame(rows, columns=["arm", *costs])

    def answer(self) -> str:
        """`answer_in_words` and the units of its intervals, also written as `conclusion.md`."""
        models = [f"{billions:g}" for billions in sorted(self.cells["billions"].unique())]
        sizes = [f"{size:,}" for size in sorted(self.cells["train_size"].unique())]
        what = f"models of {join(models)} billion parameters and {join(sizes)} training documents"
        pooled, others = self.pooled(HEAD, PROMPT), {x: self.pooled(HEAD, x) for x in IN_WORDS}
        text = answer_in_words(f"with {what}", pooled, others, self.left_out())
        text += f" Intervals are over {self.units}."
        with atomic_path(self.folder / "conclusion.md") as path:
            path.write_text(text + "\n", encoding="utf-8")
        return text

    def save(self, table: pd.DataFrame, name: str) -> None:
        """Write a table as `<name>.csv` into the folder."""
        with atomic_path(self.folder / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")


def _pooled(tasks: pd.DataFrame) -> Pooled | None:
    """A table `task effect error`, pooled: see `AnswerResults.pooled`."""
    if len(tasks) < MIN_TASKS:
        return None
    pooled = pool(tasks["effect"], tasks["error"])
    if len(tasks) >= MIN_FOR_NEW:
        return pooled
    return replace(pooled, new_low=float("nan"), new_high=float("nan"))


def _lacking_cells(planned: StudyParams, scores: pd.DataFrame) -> str:
    """Training sizes and seeds that head or prompt has not run, in words; "" if none."""
    lacks, seeds = [], len(planned.seeds)
    table = scores.pivot_table(index="train_size", columns="arm", values="num_seeds")
    found = table.reindex(columns=[HEAD, PROMPT]).fillna(0).min(axis=1).astype(int)
    for size in planned.train_sizes or found.index:
        ran = found.get(size, 0)
        if ran < seeds:
            number = f"{ran} of {seeds} seeds" if ran else "none of the seeds"
            lacks.append(f"{number} ran with {size:,} training documents")
    return join(lacks)


def _side(low: float, high: float) -> int:
    """1 or -1, the only sign in an interval; 0 if the interval includes zero or is not known."""
    return int(low > 0) - int(high < 0)


def answer_in_words(
    where: str, pooled: Pooled | None, others: dict[str, Pooled | None], left_out: pd.DataFrame
) -> str:
    """The answer in three sentences, which are about micro-F1.

    Parameters
    ----------
    where
        Models and numbers of training documents, in words.
    pooled, others
        Head minus prompt, and head minus each arm of `IN_WORDS`; None where it is not known.
    left_out
        See `AnswerResults.left_out`.
    """
    if pooled is None:
        return f"Fewer than {MIN_TASKS} tasks have finished: there is no answer over tasks yet."
    better = {1: "the **head** is", 0: "neither is shown to be", -1: "the **prompt** is"}
    mean, low, high = map(format_delta, (pooled.mean, pooled.low, pooled.high))
    first = (
        f"Over {pooled.num_tasks} tasks, {where}, the head's micro-F1 minus the prompt's is "
        f"{mean} on average ({low} to {high}, 95 % interval): "
        f"{better[_side(pooled.low, pooled.high)]} better on average."
    )
    safe = {1: "the head is the safe choice", 0: "either may be better there"}
    safe[-1] = "the prompt is the safe choice"
    second = (
        f"On a new task it is expected between {format_delta(pooled.new_low)} and "
        f"{format_delta(pooled.new_high)} (95 % prediction interval), "
        f"so {safe[_side(pooled.new_low, pooled.new_high)]}"
    )
    if np.isnan(pooled.new_low):
        second = f"{pooled.num_tasks} tasks are too few to say what a new one will show"
    if len(left_out):
        covered = left_out["is_covered"].sum()
        most = (left_out["mean"] - pooled.mean).abs().idxmax()
        second += (
            f"; {covered} of the {len(left_out)} tasks lie where the others predict them, and "
            f"without {left_out['task'][most]}, which changes it most, the mean is "
            f"{format_delta(left_out['mean'][most])}"
        )
    relations = {1: "better than", 0: "not distinguishable from", -1: "worse than"}
    found = defaultdict(list)  # arms by the relation of the head to them
    for arm, other in others.items():
        if other is not None:
            mean, low, high = map(format_delta, (other.mean, other.low, other.high))
            relation = relations[_side(other.low, other.high)]
            found[relation].append(f"{IN_WORDS[arm]} ({mean}, {low} to {high})")
    parts = [f"{relation} {join(arms)}" for relation, arms in found.items()]
    third = f" On average the head is {join(parts)}." if parts else ""
    return f"{first} {second}.{third}"
