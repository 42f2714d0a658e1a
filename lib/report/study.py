"""Results of a study: its finished runs, compared, and the folder that its report is written to."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import pandas as pd
from datasets import Dataset
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from transformers import PreTrainedTokenizerBase

from lib.config.arms import CompareParams
from lib.data.load import load_splits
from lib.data.version import require_same_documents
from lib.data.words import word_spans
from lib.errors import DataError, ModelError
from lib.evaluation import crossings, f1_by_part, learning_curves, resample_curves
from lib.evaluation.slices import errors_by_level, f1_by_level, parts_by_length, parts_by_support
from lib.ipc import LEVELS
from lib.model.tokens import are_cut
from lib.model.weights import load_tokenizer
from lib.report import tables, verdict
from lib.report.calibration import ScoredRun, calibration_table, read_scores
from lib.report.columns import show_table
from lib.report.figures.style import show_figure
from lib.report.names import arm_names, describe_arm
from lib.report.reading import describe_reading
from lib.report.recommendation import recommend
from lib.report.search import unequal_tries
from lib.report.sentences import conclude_effects, describe_curves, three_sentences
from lib.report.wording import format_range
from lib.runs.card import describe_data
from lib.runs.finished import read_label_space, read_predictions, read_runs, read_train_counts
from lib.runs.reading import with_length
from lib.storage import ROOT, atomic_path


class StudyResults:
    """Finished runs of a study and their comparison at the largest training size.

    Attributes
    ----------
    every_run, runs_by_size, runs
        Tables of `lib.runs.finished.read_runs`: of all training sizes, by size, and of the largest.
    shared
        Parameters of the run with the most training documents, which stand for all runs.
    resampling
        Options `num_resamples` and `groups`, as all resampling functions take them.
    y_true, y_preds
        Truth and predictions on the test split: see `lib.report.tables.stack_predictions`.
    comparison, pairwise
        F1 and costs by arm, differences by pair: see `lib.report.tables.compare_runs`.
    names
        Arms in words: see `lib.report.names.arm_names`.
    """

    def __init__(self, params: CompareParams) -> None:
        self.params, self.folder = params, ROOT / params.figures_dir / params.study
        self.every_run = tables.drop_unsized(
            read_runs(params.study, runs_dir=params.runs_dir, arms=params.arms, seeds=params.seeds)
        )
        self.runs_by_size = tables.by_size(self.every_run)
        self.runs = list(self.runs_by_size.values())[-1]
        largest = max(self.runs.itertuples(), key=lambda run: run.params.get("train_size", 0))
        self.shared, self._largest = largest.params, largest.folder
        self.names = arm_names(self.runs)
        self.multi_label = self.shared["label_mode"] == "multi"
        self.label_space = read_label_space(largest.folder)
        self.y_true, self.y_preds = tables.stack_predictions(self.runs)
        groups = tables.read_groups(self.runs)
        self.resampling = {"num_resamples": params.num_resamples, "groups": groups}
        self.comparison, self.pairwise = tables.compare_runs(
            self.runs, self.y_true, self.y_preds, reference=params.reference, **self.resampling
        )

    @property
    def data(self) -> str:
        """Data set, version and checksum of the documents."""
        return describe_data(self.shared)

    @cached_property
    def about(self) -> str:
        """Numbers of documents and labels, and the command that runs the study, for captions."""
        absent = self.comparison["num_labels_without_test"].max()
        none = f" ({absent:.0f} without a test document: 0 in macro-F1)" if absent else ""
        folder = self.params.params_dir
        elsewhere = "" if folder == type(self.params)().params_dir else f" PARAMS={folder}"
        return (
            f"{len(self.y_true):,} test documents, {len(self.label_space)} labels{none}, "
            f"{self.num_train or 'all'} training documents; "
            f"`make study STUDY={self.params.study}{elsewhere}`."
        )

    @property
    def num_train(self) -> int:
        """Training documents at the largest size; 0, for all, in runs of an earlier version."""
        asked = self.shared.get("train_size") or self.shared["num_train"]
        return asked or int(pd.to_numeric(self.runs["train_documents"]).fillna(0).max())

    @cached_property
    def intervals(self) -> str:
        """The units that intervals are over, for captions."""
        few, many = self.comparison["num_seeds"].min(), self.comparison["num_seeds"].max()
        seeds = "" if many == 1 else f" and {format_range(few, many)} seeds"
        return f"95 % intervals over {tables.units_of(self.resampling['groups'])}{seeds}."

    @property
    def gaps(self) -> str:
        """Markdown on missing runs, parameters other than in files, unequal search; "" if none."""
        params, runs, parts = self.params, self.every_run, []
        if missing := tables.missing_runs(runs, arms=params.arms, seeds=params.seeds):
            parts.append(f"**Not all of the study has run.** Missing: {missing}.")
        if changed := tables.changed_params(runs, ROOT / params.params_dir / params.study):
            parts.append(f"**Not all runs are what the study's files ask for.** {changed}.")
        if unequal := unequal_tries(self.runs):
            parts.append(f"**Arms were not searched over equally.** Candidates: {unequal}.")
        return "\n\n".join(parts)

    def save(self, table: pd.DataFrame, name: str) -> None:
        """Write a table as `<name>.csv` into the folder."""
        with atomic_path(self.folder / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")

    def write(self, text: str, name: str) -> None:
        """Write a text as a file of this name into the folder."""
        with atomic_path(self.folder / name) as path:
            path.write_text(text + "\n", encoding="utf-8")

    def show(self, fig: Figure | None, name: str, caption: str) -> None:
        """Save a figure, show it and its caption below; nothing without a figure."""
        if fig is not None:
            show_figure(fig, self.folder, name, caption, about=self.about)

    def table(self, table: pd.DataFrame, formats: Mapping | None = None, **options: Any) -> Styler:
        """The table for a report: see `show_table`; arms are named in words."""
        return show_table(table, formats, names=self.names, **options)

    @cached_property
    def _recommendation(self) -> dict[str, Any]:
        return recommend(self.comparison, self.pairwise, self.names)

    def verdict(self) -> str:
        """The study's answer as one sentence, a quotation in Markdown."""
        if reference := self.params.reference:
            return f"> {verdict.judge_changes(self.pairwise, reference, self.names)}"
        return f"> {verdict.give_verdict(self._recommendation, self.names)}"

    def lines(self) -> None:
        """Show a line per arm (`verdict.arm_lines`), and below them their meaning.

        Arms are judged by the reference if there is one, else by the recommended arm, else by the
        one of the highest micro-F1.
        """
        anchor, title = self.params.reference, verdict.REFERENCE
        if not anchor:
            anchor, title = self._recommendation["arm"], verdict.RECOMMENDED
        if not anchor:
            anchor, title = self._recommendation["best"], verdict.HIGHEST
        single, preds = {"single": not self.multi_label}, self.y_preds.items()
        right = {arm: verdict.count_right(self.y_true, y_pred, **single) for arm, y_pred in preds}
        options = {"anchor": anchor, "title": title, "right": right, "names": self.names}
        display(HTML(verdict.arm_lines(self.comparison, self.pairwise, **options)))
        kinds = set(map(describe_arm, self.runs["params"])) if len(self.names) > 1 else set()
        display(Markdown(verdict.explain_lines(self.names[anchor], kinds=kinds, **single)))

    def answer(self) -> str:
        """The study's answer in Markdown, also written as `conclusion.md`.

        It ends with the parts of documents that arms read, where these differ. Without a reference,
        `recommendation.json` is written too.
        """
        if reference := self.params.reference:
            pairs = self._in_words(self.pairwise, "arm_a", "arm_b")
            answer = conclude_effects(pairs, self.names[reference])
        else:
            answer = three_sentences(self._recommendation, self.names)
            self.write(json.dumps(self._recommendation, indent=2), "recommendation.json")
        read = describe_reading(self._in_words(self.runs, "arm"))
        item = "\n- " if answer.startswith("- ") else "\n\n"  # of a list, or a paragraph
        answer = f"{answer}{item}{read}" if read else answer
        self.write(answer, "conclusion.md")
        return answer

    def _in_words(self, table: pd.DataFrame, *columns: str) -> pd.DataFrame:
        """The table with arms named in words."""
        return table.assign(**{c: table[c].replace(self.names) for c in columns})

    @property
    def has_sizes(self) -> bool:
        """True if arms have run at several training sizes."""
        return self.every_run["arm"].str.contains("@").any()

    def learning_curves(self) -> tuple[pd.DataFrame, pd.DataFrame, str]:
        """Tables of `learning_curves` and `crossings`, and `describe_curves` in Markdown.

        They are written as `curves.csv`, `crossings.csv` and `curves.md`.
        """
        y_true, y_preds = tables.stack_predictions(self.every_run)
        table = learning_curves(y_true, y_preds, groups=self.resampling["groups"])
        curves = resample_curves(y_true, y_preds, **self.resampling)
        crossed = crossings(curves)
        self.save(table, "curves")
        self.save(crossed, "crossings")
        in_words = {self.names.get(arm, arm): curve for arm, curve in curves.items()}
        pairs = self._in_words(crossed, "ahead", "behind")
        reading = describe_curves(self._in_words(table, "approach"), in_words, pairs)
        self.write(reading, "curves.md")
        return table, crossed, reading

    @cached_property
    def scored(self) -> dict[str, list[ScoredRun]]:
        """Scores by arm and seed: see `read_scores`."""
        return read_scores(self.runs)

    def save_sizes(self) -> None:
        """Write `comparison` and `pairwise` of every training size, as `sizes` and `effects`.

        06_answer reads these two files. A size at which the reference has not run has no effects.
        """
        found: dict[str, list[pd.DataFrame]] = {"sizes": [], "effects": []}
        for size, runs in self.runs_by_size.items():
            if runs is self.runs:
                pair = self.comparison, self.pairwise
            else:
                reference = self.params.reference
                has_run = reference in {"", *runs["arm"]}
                options = self.resampling | {"reference": reference if has_run else ""}
                pair = tables.compare_runs(runs, *tables.stack_predictions(runs), **options)
                pair = pair if has_run else (pair[0], pair[1][:0])
            about = {"train_size": size or self.num_train, "num_labels": len(self.label_space)}
            for name, table in zip(found, pair, strict=True):
                found[name].append(table.assign(**about))
        for name, parts in found.items():
            self.save(pd.concat(parts, ignore_index=True), name)

    def calibration(self) -> pd.DataFrame:
        """The table of `calibration_table`, also written as `calibration.csv`."""
        table = calibration_table(self.scored, multi_label=self.multi_label)
        self.save(table, "calibration")
        return table

    @cached_property
    def documents(self) -> Dataset | None:
        """The test documents that the runs have answered; None where they cannot be read.

        Then a line is printed, and the report leaves out what needs texts.
        """
        try:
            splits = load_splits(self.params)
            require_same_documents(self.params, splits, self.shared.get("held_out_fingerprint", ""))
            self._train_texts = splits["train"]["text"]
            return splits["test"]
        except DataError as error:
            print(error)
            return None

    def slices(self) -> dict[str, pd.DataFrame]:
        """Tables of `f1_by_part` by title: parts of labels and, if `documents`, of documents.

        Without the tokenizer, a line is printed and there is no table of what is read.
        """
        of = partial(f1_by_part, self.y_true, self.y_preds, groups=self.resampling["groups"])
        support = parts_by_support(read_train_counts(self._largest))
        found = {"training documents of a label": of(labels=support)}
        if self.documents is not None:
            texts = self.documents["text"]
            num_words = [len(word_spans(text)) for text in texts]
            found["words of a document"] = of(documents=parts_by_length(num_words))
            try:
                reads = with_length(self.params, self._train_texts).tokens_read
                tokenizer = load_tokenizer(self.params.model_id, self.params.model_revision)
                cut = parts_by_truncation(texts, tokenizer, max_length=reads)
                found["what is read"] = of(documents=cut)
            except ModelError as error:
                print(error)
        return found

    def levels(self) -> dict[str, pd.DataFrame]:
        """F1 and, for single labels, errors by level of the label hierarchy; empty without one.

        Tables of `f1_by_level` and `errors_by_level` by their titles.
        """
        level = self.shared["label_level"]
        levels = LEVELS[: LEVELS.index(level) + 1] if level else ()
        if len(levels) < 2:
            return {}
        inputs = {level: self.label_space.rolled_up(level)[1] for level in levels}
        title = "Micro-F1 with the same answers cut to coarser levels of the hierarchy:"
        y_preds = {self.names[arm]: y_pred for arm, y_pred in self.y_preds.items()}
        found = {title: f1_by_level(self.y_true, y_preds, inputs)}
        if not self.multi_label:
            title = "At which level answers go wrong, as shares of the documents:"
            found[title] = errors_by_level(self.y_true, y_preds, inputs)
        return found

    def answers_of(self, arm: str) -> tuple[str, pd.DataFrame]:
        """An arm's name in words, and the predictions on test of its first seed."""
        runs = self.runs[self.runs["arm"] == arm].sort_values("seed")
        return self.names[arm], read_predictions(runs["folder"].iloc[0])

    def histories(self) -> dict[str, list[pd.DataFrame]]:
        """Training histories by arm, one per seed, of the arms that are trained in epochs."""
        found = defaultdict(list)
        for arm, folder in zip(self.runs["arm"], self.runs["folder"], strict=True):
            history = pd.read_parquet(folder / "history.parquet")
            if "eval_micro_f1" in history:
                found[arm].append(history)
        return dict(found)


def parts_by_truncation(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> pd.Categorical:
    """The part of each document, (N,): read as a whole, or cut behind `max_length` tokens.

    It is that of one tokenizer: another arm's may cut elsewhere, and TF-IDF reads whole texts.
    """
    cut = are_cut(tokenizer, texts, max_length=max_length)
    names = [f"up to {max_length} tokens", "cut"]
    return pd.Categorical.from_codes(cut.astype(int), names, ordered=True)
