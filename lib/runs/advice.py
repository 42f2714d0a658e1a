"""Words about the documents of a new study: their language, an instruction, and what may mislead.

All numbers and lists of words here are our choices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import py3langid
from babel import Locale
from datasets import DatasetDict

from lib.data.auditing import CONTRARY, FEW_OF_LABEL, audit
from lib.data.indicators import NO, YES
from lib.data.label_columns import LABELS, normal_name
from lib.data.labels import LabelSpace
from lib.data.words import normal_form
from lib.errors import DataError

MAX_SCORED = {"single": 50, "multi": 100}  # labels; above, answers are searched or generated
SAMPLE = 200  # texts from which the language is told
MIN_TEST = 50  # documents; with fewer, an interval of F1 is about as wide as what is compared
# Labels in lower case that mostly stand for no value; of pandas, of databases, of spreadsheets.
GAPS = {"nan", "nat", "null", "none", "nil", "na", "n/a", "<na>", "\\n", "(null)", "-", "?"}
GAPS |= {"#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#num!", "#null!"}
SHOWN = 3  # labels that a line names


def language(texts: Sequence[str]) -> str:
    """The name of the texts' language; another one than English comes with a caution."""
    sample = " ".join(texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE])
    code, _ = py3langid.classify(sample)
    name = Locale("en").languages.get(code, code)
    if code == "en":
        return name
    return f"{name}; the models here have read mostly English: see `model_id` in common.yaml"


def label_texts(labels: LabelSpace) -> dict[str, str]:
    """Labels with underscores, as texts without them; none if two labels would read alike."""
    texts = {
        name: name.replace("_", " ").strip() for name in labels.names if "_" in name.strip("_")
    }
    shown = {normal_form(texts.get(name, name).lower()) for name in labels.names}
    return texts if len(shown) == len(labels) else {}


def prompt(values: Mapping[str, Any], labels: LabelSpace) -> dict[str, Any]:
    """The parameters `instruction` and `decoding`, from the name and the number of the labels."""
    mode = values.get("label_mode", "single")
    known = normal_name(values.get("label_column", "labels"))
    what = known.replace("_", " ")
    what = "label" if what in ("", "text") or what.isdecimal() else what
    scored = len(labels) <= MAX_SCORED[mode]
    if mode == "multi":
        what = what if what.endswith("s") else f"{what}s"
        decoding = "score" if scored else "generate"
        return {"instruction": f"List the {what} of this text.", "decoding": decoding}
    decoding = "score" if scored else "search"
    if known not in LABELS and {name.lower() for name in labels.names} <= YES | NO:
        what = what.removeprefix("is ")
        return {"instruction": f'Is "{what}" true of this text?', "decoding": decoding}
    what = what.removesuffix("s") if what == "labels" else what
    return {"instruction": f"Name the {what} of this text.", "decoding": decoding}


def cautions(splits: DatasetDict, labels: LabelSpace, source: str) -> list[str]:
    """Sentences about documents that make a comparison say little, or something else than it seems.

    `source` names the file in messages. Raises `DataError` if no label of test is in train, since
    no answer could be right.
    """
    said = []
    train, test = splits["train"], splits["test"]
    if gaps := [name for name in labels.names if name.lower() in GAPS]:
        said.append(f"{_some(gaps)} counts as a label; empty these cells if they have none")

    known = {name for row in train["labels"] for name in row}
    asked = {name for row in test["labels"] for name in row}
    if asked and not asked & known:
        raise DataError(
            f"{source}: no label of test ({_some(sorted(asked))}) is in train "
            f"({_some(sorted(known))}); write them alike"
        )
    found = audit(splits)
    misleading = (found["severity"] == "error") | found["check"].isin([CONTRARY, FEW_OF_LABEL])
    for row in found[misleading].to_dict("records"):
        said.append(f"{row['check']}: {row['count']:,}, such as {row['examples']}; {row['remedy']}")
    if len(test) < MIN_TEST:
        said.append(f"{len(test):,} test documents show large differences alone; label more texts")
    return said


def _some(names: Sequence[str]) -> str:
    """The first names of a list."""
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else shown
