"""A file of texts with the labels that a finished run gives them: `python -m lib predict`."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit
from tqdm import tqdm

from lib.data.unlabelled import has_lines, read_unlabelled
from lib.data.written_tables import DELIMITERS, ENDINGS, open_table
from lib.errors import InputError
from lib.evaluation import calibration
from lib.evaluation.calibration import SureThreshold
from lib.evaluation.scores import Scores
from lib.machine import configure_process
from lib.runs.classifier import FIRST_CHUNK, Classifier, load_classifier, read_run
from lib.runs.finished import read_predictions
from lib.storage import atomic_path

log = logging.getLogger(__name__)

# Our choices.
MOST_AT_ONCE = 1024  # texts that are sorted by length, answered and written together
SECONDS_PER_LINE = 30  # of a log that is no terminal
PREFIX = "predicted_"  # of our columns where the file has one of them already
SEPARATORS = (";", "|", " ; ", " | ")  # between the labels of a set in a delimited file
DIGITS = 6  # of probabilities


def predict_file(
    run_dir: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    text_columns: Sequence[str] = (),
    top_k: int = 0,
    precision: float = 0.0,
    int8: bool = False,
    overwrite: bool = False,
) -> str:
    """Label the texts of a file in a new file, which is written as a whole or not at all.

    All rows and columns stay, in their order. New columns follow: `label` and `probability`, or
    `labels` and `probabilities` for label sets. TF-IDF has a `score`, a decision value, in place of
    a probability; free answers have neither. Returns a line on how many texts were answered, and
    why others were not.

    Parameters
    ----------
    source, target
        Files of texts (`lib.data.unlabelled`) and of answers (`lib.data.written_tables`).
    text_columns
        Columns of the text; by default those that the run was trained on, in their template.
    top_k
        Add the k best labels, `label_1 probability_1 label_2` and so on; 0 adds none.
    precision
        Share of answers, in (0, 1), that shall be right. Answers less confident than validation
        shows to be needed are left out (`lib.evaluation.calibration.sure_threshold`); 0: none.
    int8
        See `load_classifier`.

    Raises
    ------
    InputError
        The run, the files or the options cannot be used; nothing is written.
    """
    folder, source, target = Path(run_dir), Path(source), Path(target)
    if precision and not 0 < precision < 1:
        raise InputError(f"--precision: {precision}; write a share between 0 and 1, such as 0.95")
    if precision and int8:
        raise InputError("--precision: validation was answered without --int8; omit one of them")
    params, _ = read_run(folder)
    _check_target(target, source, overwrite)
    if text_columns and has_lines(source):
        raise InputError(f"--text: {source} has a text per line and no columns; omit it")
    table, texts = read_unlabelled(
        source,
        text_columns=text_columns or params.text_columns,
        text_template="" if text_columns else params.text_template,
    )
    configure_process(seed=params.seed, num_threads=params.threads)
    classifier = load_classifier(folder, int8=int8)
    if top_k:
        classifier.require_ranks(top_k)
    sure = _sure_threshold(folder, classifier, precision) if precision else None
    answers = _Answers(classifier, sure, top_k)
    taken = [name for name in answers.columns if name in table.columns]
    prefix = PREFIX if taken else ""
    if clash := {prefix + name for name in answers.columns} & set(table.columns):
        raise InputError(f"{source}: has a column {min(clash)!r} already; rename it")
    separator = ""
    if answers.many and target.suffix.lower() in DELIMITERS:
        separator = _separator(classifier.label_space.names, params.label_delimiter)
    added = {prefix + name: kind for name, kind in answers.columns.items()}
    with atomic_path(target) as path, open_table(path, table, added) as write:
        for chunk in _steps(len(texts)):
            rows = {name: table[name].iloc[chunk] for name in table.columns}
            for name, values in answers.of(texts[chunk]).items():
                if separator:
                    values = [_joined(value, separator) for value in values]
                rows[prefix + name] = values
            write(rows)
    said = [f"{target}: {answers.summary()}"]
    said += [f"{separator!r} separates the labels of a set"] if separator else []
    said += [f"columns begin with {prefix}, since the file has a {taken[0]!r}"] if prefix else []
    return "; ".join(said)


def _check_target(target: Path, source: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in ENDINGS:
        raise InputError(f"{target}: ending {target.suffix!r} is none of {' '.join(ENDINGS)}")
    if not target.parent.is_dir():
        raise InputError(f"{target}: no such folder {str(target.parent)!r}; create it first")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: is the input; name another file for the answers")
    if target.exists() and not (target.is_file() and overwrite):
        remedy = "name a file" if not target.is_file() else "write --overwrite to replace it"
        raise InputError(f"{target}: something is there already; {remedy}")


def _separator(names: Sequence[str], wanted: str) -> str:
    """The first text that is in no label, of the study's delimiter and `SEPARATORS`."""
    for text in (wanted, *SEPARATORS):
        if text and not any(text in name for name in names):
            return text
    raise InputError(f"labels contain each of {SEPARATORS}; name the output .jsonl or .parquet")


def _joined(value: Any, separator: str) -> Any:
    return separator.join(map(str, value)) if isinstance(value, list) else value


def _sure_threshold(folder: Path, classifier: Classifier, wanted: float) -> SureThreshold:
    if not classifier.measure:
        raise InputError(f"--precision: answers of {folder} have no probability to choose by")
    table = read_predictions(folder, "validation")
    scores = Scores.from_rows(table, len(classifier.label_space))
    right = [set(a) == set(b) for a, b in zip(table["y_true"], table["y_pred"], strict=True)]
    groups = table.get("group")
    found = calibration.sure_threshold(
        _confidence(classifier, scores), np.array(right), wanted, groups=groups
    )
    if found:
        return found
    if (least := calibration.min_documents(wanted)) > len(table):
        raise InputError(
            f"--precision: {wanted} takes {least:,} validation documents to be sure of, the run "
            f"in {folder} has {len(table):,}; raise num_validation and run the arm again, or ask "
            "for less"
        )
    why = f"too many of the {least:,} most confident answers of {folder} are wrong"
    if groups is not None:
        why = f"too many answers of {folder} are wrong, or its groups count as too few documents"
    raise InputError(f"--precision: {wanted} is out of reach: on validation, {why}; ask for less")


def _confidence(classifier: Classifier, scores: Scores) -> np.ndarray:
    """A number per answer that ranks answers by how likely they are right, (N,) float."""
    values = scores.values
    if not classifier.multi_label:
        return values.max(axis=1)
    if classifier.measure == "score":  # decision values, as if they were logits
        values = expit(values - classifier.threshold)
    columns = scores.columns
    rows = np.repeat(np.arange(len(scores)), columns.shape[1])
    chosen = np.asarray(classifier.sets_of(scores)[rows, columns.ravel()], dtype=bool)
    return calibration.set_confidence(values, chosen.reshape(columns.shape))


class _Answers:
    """The columns of answers, for one chunk of texts after another, and counts of the rows so far.

    `columns` has their types by name; `label` and `score` are the names of the first two; `many` is
    true for label sets.
    """

    def __init__(self, classifier: Classifier, sure: SureThreshold | None, top_k: int) -> None:
        self.classifier, self.sure, self.top_k = classifier, sure, top_k
        self.many, self.measure = classifier.multi_label, classifier.measure
        self.label = "labels" if self.many else "label"
        several = {"probability": "probabilities", "score": "scores", "": ""}[self.measure]
        self.score = several if self.many else self.measure
        text, number = pa.string(), pa.float64()
        self.columns: dict[str, pa.DataType] = {self.label: pa.list_(text) if self.many else text}
        if self.measure:
            self.columns[self.score] = pa.list_(number) if self.many else number
        for i in range(1, top_k + 1):
            self.columns |= {f"label_{i}": text, f"{self.measure}_{i}": number}
        self.total = self.empty = self.unsure = self.no_label = 0

    def of(self, texts: Sequence[str]) -> dict[str, list[Any]]:
        """The columns of these texts; None in all of them for an empty text."""
        places = [i for i, text in enumerate(texts) if text]
        columns = {name: [None] * len(texts) for name in self.columns}
        self.total += len(texts)
        self.empty += len(texts) - len(places)
        if not places:
            return columns
        scores = self.classifier.predict_scores([texts[i] for i in places])
        labels = self.classifier.labels_of(scores)
        sure = np.ones(len(places), dtype=bool)
        if self.sure:
            sure = _confidence(self.classifier, scores) >= self.sure.value
        best = self.classifier.best_of(scores, self.top_k) if self.top_k else None
        for row, i in enumerate(places):
            columns[self.label][i] = labels[row] if sure[row] and labels[row] != "" else None
            if self.measure and (sure[row] or not self.many):
                columns[self.score][i] = self._scores(scores, row, labels[row])
            for rank, (name, value) in enumerate(best[row] if best else (), start=1):
                columns[f"label_{rank}"][i] = name
                columns[f"{self.measure}_{rank}"][i] = round(value, DIGITS)
        self.unsure += int((~sure).sum())
        self.no_label += sum(label == "" for label in labels)
        return columns

    def _scores(self, scores: Scores, row: int, labels: Sequence[str]) -> float | list[float]:
        """The score of the label of a text, or those of its labels."""
        if not self.many:
            return round(float(scores.values[row].max()), DIGITS)
        (wanted,) = self.classifier.label_space.indices([labels])
        of = dict(zip(scores.columns[row].tolist(), scores.values[row].tolist(), strict=True))
        return [round(of[column], DIGITS) for column in wanted]

    def summary(self) -> str:
        """A line: texts that were answered, and why others were not."""
        answered = self.total - self.empty - self.unsure - self.no_label
        parts = [f"{answered:,} of {self.total:,} rows answered"]
        if self.empty:
            parts.append(f"{self.empty:,} without a text")
        if self.no_label:
            parts.append(f"{self.no_label:,} free answers are no label")
        if self.sure:
            name = "confidence" if self.many else self.measure
            parts.append(
                f"{self.unsure:,} below the {name} {self.sure.value:.4g}, from which on "
                f"{self.sure.right:,} of {self.sure.answered:,} validation answers are right "
                f"(chance of a lower precision than asked: at most {calibration.CHANCE:.0%})"
            )
        return "; ".join(parts)


def _steps(total: int) -> Iterator[slice]:
    """Rows of chunks, small ones first; a bar in a terminal, lines in a log."""
    start, size = 0, FIRST_CHUNK
    began = said = time.monotonic()
    with tqdm(total=total, unit=" texts", disable=not sys.stderr.isatty()) as bar:
        while start < total:
            stop = min(start + size, total)
            yield slice(start, stop)
            bar.update(stop - start)
            now = time.monotonic()
            if bar.disable and now - said >= SECONDS_PER_LINE and stop < total:
                said, rate = now, stop / (now - began)
                log.info("%s of %s texts, %.1f per second, %.0f minutes to go",
                         f"{stop:,}", f"{total:,}", rate, (total - stop) / rate / 60)  # fmt: skip
            start, size = stop, min(2 * size, MOST_AT_ONCE)
