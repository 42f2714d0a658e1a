"""Single answers, for 07_try_it: each approach's answer to a text, the words behind it, and errors.

Limits without a source are our choices.
"""

from functools import cache, cached_property
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from pandas.io.formats.style import Styler

from lib.config.arms import TryItParams
from lib.data.load import load_splits
from lib.data.version import require_same_documents
from lib.errors import InputError
from lib.machine import configure_process
from lib.report import tables
from lib.report.disagreements import answers_side_by_side, choose_pair, folded_html
from lib.report.wording import printable
from lib.runs.attribution import TOLERANCE, Attribution, deletion, has_head, integrated_gradients
from lib.runs.classifier import Classifier, load_classifier
from lib.runs.finished import read_label_space, read_predictions, read_runs
from lib.storage import ROOT

TOP = 3  # labels of each arm that are shown
MAX_SHARE = 0.55  # opacity of the darkest shade, on which black text can still be read
SHADES = {True: "31, 119, 180", False: "214, 120, 39"}  # RGB of words for the answer, and against
# Methods of attribution, of runs with a head (`has_head`) and of others
HOW = {True: "integrated gradients", False: "leaving each word out"}


class TryIt:
    """Finished runs of a study that answer single texts, one per chosen arm.

    `runs` is the table of `read_runs` by arm; `documents` are the test split. Without `params.arms`
    the arms are head and prompt, or else the two best (`choose_pair`). Raises `InputError` if an
    arm has no finished run with the seed, or if the documents are not those of the runs.
    """

    def __init__(self, params: TryItParams) -> None:
        configure_process(seed=params.seed, num_threads=params.threads)
        self.params = params
        found = read_runs(
            params.study, runs_dir=params.runs_dir, arms=params.arms, seeds=[params.seed]
        )
        found = tables.drop_unsized(found)
        runs = found if params.arms else list(tables.by_size(found).values())[-1]
        runs = runs.set_index("arm", drop=False)
        ranked = runs.sort_values("micro_f1", ascending=False, kind="stable").index
        chosen = params.arms or (choose_pair(ranked) if len(ranked) > 1 else ranked)
        if missing := set(chosen) - set(runs.index):
            raise InputError(
                f"arms: {params.study!r} has no finished run of {', '.join(sorted(missing))} with "
                f"seed {params.seed}, it has {', '.join(runs.index)}"
            )
        self.runs = runs.loc[list(chosen)]
        splits = load_splits(params)
        recorded = self.runs["params"].iloc[0].get("held_out_fingerprint", "")
        require_same_documents(params, splits, recorded)
        self.documents: Dataset = splits["test"]
        self.label_space = read_label_space(self.runs["folder"].iloc[0])
        self.multi_label = params.multi_label

    def __str__(self) -> str:
        return "\n".join(
            f"{run.arm}: micro-F1 {run.micro_f1:.3f} on {len(self.documents):,} test documents; "
            f"{HOW[has_head(run.folder)]}"
            for run in self.runs.itertuples()
        )

    @cache  # noqa: B019  # a notebook has one of these
    def classifier(self, arm: str) -> Classifier:
        """The run of an arm as a classifier, loaded once."""
        return load_classifier(self.runs.loc[arm, "folder"])

    def example(self) -> tuple[str, str]:
        """The id and the text of the first test document that an arm gets wrong, else of the first.

        If the parameter `text` is given, the id is "" and the text is that of the parameter.
        """
        if self.params.text.strip():
            return "", self.params.text.strip()
        wrong = self.errors
        document = self.documents[0 if wrong.empty else int(wrong.index[0])]
        return document["id"], document["text"]

    def answers(self, text: str) -> pd.DataFrame:
        """A row per arm: `arm answer`, and "label 1" to "label 3", the best with their scores."""
        rows = []
        for arm in self.runs.index:
            classifier = self.classifier(arm)
            scores, answer = classifier.predict_scores([text]), classifier.predict([text])[0]
            best = np.argsort(-scores.values[0], kind="stable")[:TOP]
            if not classifier.ranks:  # only labels in the answer have a score
                best = best[scores.values[0, best] > 0]
            row = {"arm": arm, "answer": "; ".join(answer) if self.multi_label else answer}
            for rank, place in enumerate(best, 1):
                name = self.label_space.names[scores.columns[0, place]]
                row[f"label {rank}"] = f"{name} {scores.values[0, place]:.3f}"
            rows.append(row)
        return pd.DataFrame(rows)

    def show_answers(self, text: str) -> Styler:
        """The table of `answers` for a page, escaped."""
        shown = self.answers(text).style.hide(axis="index")
        shown = shown.format(lambda x: printable(str(x)), escape="html", na_rep="–")
        return shown.set_properties(**{"text-align": "left"})

    def explain(self, text: str) -> dict[str, Attribution]:
        """The attribution of each arm: integrated gradients of a head, deletion for any other."""
        found = {}
        for run in self.runs.itertuples():
            if has_head(run.folder):
                found[run.arm] = integrated_gradients(run.folder, text)
            else:
                margins = run.params.get("method") == "tfidf"
                found[run.arm] = deletion(self.classifier(run.arm), text, margins=margins)
        return found

    def figure(self, text: str) -> str:
        """The text as HTML, once per arm, each word shaded by its attribution: see `words_html`."""
        return "".join(
            words_html(text.strip(), found, title=f"{arm}: {found.label or 'no label'}")
            for arm, found in self.explain(text).items()
        )

    @cached_property
    def errors(self) -> pd.DataFrame:
        """Test documents that some arm gets wrong; the index is their place in `documents`.

        Columns are those of `answers_side_by_side`, and "<arm> right", bool.
        """
        answered = [(arm, read_predictions(run)) for arm, run in self.runs["folder"].items()]
        table, right = answers_side_by_side(self.documents, *answered)
        table = table.assign(**{f"{arm} right": found for arm, found in right.items()})
        return table[~np.all(list(right.values()), axis=0)]

    def errors_of(self, arm: str, *, label: str = "", least: float = -np.inf) -> pd.DataFrame:
        """Rows of `errors` that the arm gets wrong, those of the highest score first.

        They are limited to documents with the true `label`, if it is not "", and to answers that
        score at least `least`.
        """
        table = self.errors[~self.errors[f"{arm} right"]]
        table = table[table[f"{arm} score"] >= least]
        if label:
            has = [label in self.documents[int(row)]["labels"] for row in table.index]
            table = table[np.array(has, dtype=bool)]
        return table.sort_values(f"{arm} score", ascending=False, kind="stable")

    def errors_html(self) -> str:
        """The surest errors of each arm as HTML: tables that fold out (`folded_html`)."""
        arms = self.runs.index
        hidden = [f"{arm} right" for arm in arms]
        tables = {f"Errors of {arm}": self.errors_of(arm).drop(columns=hidden) for arm in arms}
        return folded_html(tables)

    @property
    def corrections_file(self) -> Path:
        """The CSV file of corrected labels, beside the study's report."""
        return ROOT / self.params.figures_dir / self.params.study / "corrections.csv"


def words_html(text: str, found: Attribution, *, title: str) -> str:
    """A text as HTML, every word shaded by its attribution, with the number below it.

    Words for the answer have a solid line below, words against it a dotted one, so that grey print
    shows the difference; words that are not read are pale. All of the text is escaped.
    """
    largest = np.nanmax(np.abs(found.values), initial=1e-9)
    words = []
    for (start, end), value in zip(found.spans, found.values, strict=True):
        word = escape(printable(text[start:end]))
        if np.isnan(value):
            words.append(f'<span style="{_BOX} opacity: 0.45">{word}<br><small>–</small></span>')
            continue
        share = MAX_SHARE * abs(value) / largest
        line = "solid" if value >= 0 else "dotted"
        style = f"background: rgba({SHADES[bool(value >= 0)]}, {share:.2f}); "
        style += f"border-bottom: {3 * abs(value) / largest:.1f}px {line} black"
        number = "0" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")
        words.append(f'<span style="{_BOX} {style}">{word}<br><small>{number}</small></span>')
    return (
        f'<figure class="tex2jax_ignore mathjax_ignore" style="{_PAGE}"><figcaption>'
        f"<b>{escape(printable(title))}</b> · {escape(describe(found))}</figcaption>"
        f"{' '.join(words)}</figure>"
    )


def describe(found: Attribution) -> str:
    """One line on the numbers of an attribution: their unit and, of gradients, their sum."""
    if np.isnan(found.total):
        return f"change in {found.unit} of the answer where the word is left out"
    holds = f"within {max(found.gap, 0.001):.1%}"
    missed = f"but for {found.gap:.0%}, more than the {TOLERANCE:.0%} allowed: do not trust them"
    return (
        f"share of each word in the {found.unit}; together {found.total:+.2f} above a text of "
        f"padding, {holds if found.gap <= TOLERANCE else missed}"
    )


_PAGE = "background: white; color: black; max-width: 60em; margin: 0 0 1em; padding: 0.5em"
_BOX = "display: inline-block; text-align: center; padding: 0 2px; margin: 1px 0; line-height: 1.2;"
