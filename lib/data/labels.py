"""The study's labels: their fixed order, texts for prompts, hierarchy and support."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Self

import numpy as np
import pandas as pd
import yaml
from datasets import DatasetDict
from scipy.sparse import csr_array

from lib.config.strict_yaml import TextLoader, load_yaml
from lib.data.json_lines import parse_json
from lib.data.words import normal_form
from lib.errors import DataError, InputError
from lib.ipc import LEVELS, cut_code, parent
from lib.storage import ROOT

DENSE_LABELS = 10_000  # with more labels, arrays of documents by labels are sparse (our choice)
NONE = ("none", "no label", "none of these", "no label applies")  # words for an empty label set
MAX_NAMES = 64 * 2**20  # bytes of a file of labels' texts (our choice)
NUMBER, WHOLE = re.compile(r"[+-]?\d+(\.\d+)?"), re.compile(r"([+-]?\d+)\.0+")
NUM_TOP = 100  # best labels per document whose scores are kept with more than `DENSE_LABELS`


@dataclass(frozen=True)
class LabelSpace:
    """The study's fixed, ordered labels; column c of every (N, C) array is `names[c]`."""

    names: tuple[str, ...]
    """C distinct labels, spelled as in the data"""
    texts: tuple[str, ...] = ()
    """their texts in prompts, in the same order; by default the names"""
    none: str = ""
    """text of an empty label set in prompts; "" in a study where every document has a label"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple(self.texts) or tuple(self.names))
        shown = filter(None, (*self.texts, self.none))
        spellings = Counter(normal_form(text.lower()) for text in shown)
        if repeated := [text for text, count in spellings.items() if count > 1]:
            raise DataError(f"labels: several are called {repeated[0]!r}; each needs its own text")

    @classmethod
    def from_splits(cls, splits: DatasetDict, *, label_names: str = "") -> Self:
        """Every label of any split, sorted, so that an absent class counts the same in every arm.

        `label_names` is a file of texts (`read_label_names`), relative to the project's root;
        labels that it leaves out keep their name. Its text of "" is the one for an empty label set;
        without it, that is the first of `NONE` that no label is called.

        Raises
        ------
        DataError
            The file cannot be read, names no label of the data, or two labels get the same text.
        """
        names = sorted({x for s in splits.values() for row in s["labels"] for x in row})
        texts = read_label_names(ROOT / label_names) if label_names else {}
        if texts and not texts.keys() & set(names):
            raise DataError(
                f"{ROOT / label_names}: none of its labels ({', '.join(list(texts)[:3])} ...) is a "
                f"label of the data ({', '.join(names[:3])} ...)"
            )
        shown = tuple(texts.get(name, name) for name in names)
        if all(len(row) for split in splits.values() for row in split["labels"]):
            return cls(tuple(names), shown)
        taken = {normal_form(text.lower()) for text in shown}
        free = (word for word in NONE if word not in taken)
        if not (none := texts.get("", "") or next(free, "")):
            raise DataError(
                f"labels are called {', '.join(NONE)}: none is left for an empty label set; write "
                'its text as that of "" in the file of label_names'
            )
        return cls(tuple(names), shown, none)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def may_be_empty(self) -> bool:
        """True if a document may have no label."""
        return bool(self.none)

    @property
    def sparse(self) -> bool:
        """True if there are so many labels that arrays of documents by labels are sparse."""
        return len(self) > DENSE_LABELS

    def require_dense(self, notebook: str) -> None:
        """Raise `DataError` if there are so many labels that arrays would be sparse."""
        if self.sparse:
            raise DataError(
                f"{len(self):,} labels: {notebook} handles {DENSE_LABELS:,} at most; set a coarser "
                "label_level or a min_support, or use 03_finetune_embedding"
            )

    def indices(self, labels: Iterable[Sequence[str]]) -> list[list[int]]:
        """The columns of N documents' labels, in ascending order; names outside are skipped."""
        index = {name: i for i, name in enumerate(self.names)}
        return [sorted({index[name] for name in row if name in index}) for row in labels]

    def encode(self, labels: Iterable[Sequence[str]]) -> np.ndarray | csr_array:
        """Multi-hot targets, (N, C) bool, of N documents' label lists; names outside are skipped.

        A prediction without a label, or with one outside the set, has no entry for it and so counts
        as an error. The array is sparse if C is more than `DENSE_LABELS`.
        """
        columns = self.indices(labels)
        starts = np.cumsum([0, *map(len, columns)])
        flat = np.array([c for row in columns for c in row], dtype=np.int64)
        ones = np.ones(len(flat), dtype=bool)
        multi_hot = csr_array((ones, flat, starts), shape=(len(columns), len(self)))
        return multi_hot if self.sparse else multi_hot.toarray()

    def outside(self, answers: Iterable[Sequence[str]]) -> np.ndarray:
        """(N,) bool, True for an answer without a label of the study.

        An empty answer is such a one only if every document has a label (`may_be_empty`).
        """
        names = set(self.names)
        found = [names.isdisjoint(row) and bool(len(row) or not self.none) for row in answers]
        return np.array(found, dtype=bool)

    def to_names(self, multi_hot: np.ndarray | csr_array) -> list[list[str]]:
        """Label lists, in label order, of an (N, C) bool array, dense or sparse."""
        rows = csr_array(multi_hot)
        rows.eliminate_zeros()
        rows.sort_indices()
        return [
            [self.names[c] for c in rows.indices[start:end]] for start, end in pairwise(rows.indptr)
        ]

    def best_names(self, scores: np.ndarray) -> list[list[str]]:
        """The label with the highest score of each document, a list of one, of (N, C) scores."""
        return [[self.names[c]] for c in scores.argmax(axis=1)]

    def verbalized(self, verbalizer: str) -> Self:
        """The same labels with other texts: "name", as in the data, or "code", a letter or number.

        With "text" they keep their texts.
        """
        if verbalizer == "text":
            return self
        few = len(self) <= len(ascii_uppercase)
        codes = ascii_uppercase if few else map(str, range(1, len(self) + 1))
        texts = self.names if verbalizer == "name" else tuple(codes)[: len(self)]
        return type(self)(self.names, texts, self.none)

    def rolled_up(self, level: str) -> tuple[Self, np.ndarray]:
        """The labels of an IPC level, C' of them, and which of ours they contain, (C, C') bool.

        A multi-hot array (N, C) becomes (N, C') by `multi_hot @ contains`. Labels that are coarser
        than the level stay themselves.
        """
        coarse = [cut_label(name, level) for name in self.names]
        space = type(self)(tuple(sorted(set(coarse))), none=self.none)
        return space, space.encode([name] for name in coarse)


def read_label_names(path: Path) -> dict[str, str]:
    """Texts of labels, by label, from a YAML or JSON file of `label: text` lines.

    Raises `DataError` if the file cannot be read or contains anything else.
    """
    try:
        if path.suffix.lower() == ".json" and path.is_file():
            if path.stat().st_size > MAX_NAMES:
                raise ValueError(f"more than {MAX_NAMES:,} bytes")
            texts = parse_json(path.read_text(encoding="utf-8-sig"), f"{path}:")
        else:
            texts = load_yaml(path, TextLoader, max_bytes=MAX_NAMES)
    except InputError as error:
        raise DataError(str(error)) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(texts, dict) or not all(
        isinstance(t, str) and t.strip() for t in texts.values()
    ):
        raise DataError(f"{path}: expected `label: text` lines")
    return texts


def cut_label(label: str, level: str) -> str:
    """The IPC label at `level`; a label that ends above it, or is no IPC code, as it is."""
    try:
        return cut_code(label, level)
    except ValueError:
        return label


def check_spelling(labels: Iterable[str], source: str) -> None:
    """Raise `DataError` if two labels differ by invisible characters, case or spaces alone.

    If all labels are numbers, 1 and 1.0 are such a pair too, as are 1.0 and 1.00.
    """
    labels, spellings = list(labels), dict[str, str]()
    if all(map(NUMBER.fullmatch, labels)):
        numbers = dict[str, str]()
        for label in labels:
            whole = WHOLE.fullmatch(label)
            if (other := numbers.setdefault(whole[1] if whole else label, label)) != label:
                raise DataError(
                    f"{source}: labels {other!r} and {label!r} are one number; write them alike"
                )
    pairs = [(spellings.setdefault(normal_form(label.lower()), label), label) for label in labels]
    pairs = [(other, label) for other, label in pairs if other != label]
    if not pairs:
        return
    other, label = pairs[0]
    fault = f"{other!r} and {label!r} differ by case or spaces alone"
    if normal_form(other) == normal_form(label) and " ".join(other.split()) != label:
        fault = f"{other!a} and {label!a} look alike: they differ by Unicode form or invisible "
        fault += "characters alone"
    more = f" ({len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
    raise DataError(f"{source}: labels {fault}; write them alike{more}")


def apply_min_support(
    frames: Mapping[str, pd.DataFrame], *, train: str, min_support: int, rare_labels: str
) -> dict[str, pd.DataFrame]:
    """The tables of the parts, with `labels` (list[str]), without rare labels.

    A label is rare if fewer than `min_support` documents of the part `train` have it. With
    `rare_labels` "drop" rare labels are removed, and with them documents that have no other label;
    a label set that was empty before stays. With "merge" a rare label becomes its IPC parent
    (subclass to class to section), until that has the support or is a section. With "keep" nothing
    changes.

    Raises `DataError` if a part has no document left.
    """
    if rare_labels == "keep":
        return dict(frames)
    # The new name of each label, None for one that goes.
    counts = Counter(label for labels in frames[train]["labels"] for label in labels)
    names = {label for frame in frames.values() for labels in frame["labels"] for label in labels}
    if rare_labels == "merge":
        renamed = _merged(frames[train], names, min_support)
    else:
        renamed = {x: x if counts[x] >= min_support else None for x in names}

    # Rename, and leave out documents that lose all their labels.
    result = {}
    for name, frame in frames.items():
        labels = frame["labels"].map(lambda row: sorted({renamed[x] for x in row if renamed[x]}))
        kept = (labels.str.len() > 0) | (frame["labels"].str.len() == 0)
        result[name] = frame.assign(labels=labels)[kept]
        if result[name].empty:
            raise DataError(f"min_support: {min_support} leaves no document in {name}; lower it")
    return result


def _merged(train: pd.DataFrame, names: Iterable[str], min_support: int) -> dict[str, str]:
    """New names of labels; from the finest level up, so that siblings meet in their parent."""
    renamed = {label: label for label in names}
    for level in reversed(LEVELS[1:]):
        counts = Counter(x for row in train["labels"] for x in {renamed[label] for label in row})
        for label, now in renamed.items():
            fine = cut_label(now, level) == now != cut_label(now, LEVELS[LEVELS.index(level) - 1])
            if fine and counts[now] < min_support:
                renamed[label] = parent(now)
    return renamed
