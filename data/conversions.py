"""Conversions of the downloaded files of each set into rows of its tables, by the tables' names.

`CONVERSIONS`, at the end, names the conversion of each set. A set without one is used as it is
downloaded, if its files are tables already.
"""

import csv
import hashlib
import html
import re
from collections.abc import Callable
from pathlib import Path

Raw = dict[str, Path]  # downloaded files by their path in sources.yaml
Rows = list[dict]


def texts_and_labels(raw: Raw) -> dict[str, Rows]:
    """CSV files with the columns `text` and `category`."""
    tables = {}
    for path, file in raw.items():
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [(row["text"], row["category"]) for row in csv.DictReader(lines)]
        tables[f"{Path(path).stem}.jsonl"] = [{"text": t, "labels": [c]} for t, c in rows]
    return tables


def questions(raw: Raw) -> dict[str, Rows]:
    """Lines `COARSE:fine question` in Latin-1."""
    tables = {}
    for path, file in raw.items():
        rows = tables["train.jsonl" if "train" in Path(path).stem else "test.jsonl"] = []
        for line in file.read_text(encoding="latin-1").splitlines():
            fine, _, text = line.partition(" ")
            rows.append({"text": text.strip(), "labels": [fine.partition(":")[0]], "fine": fine})
    return tables


def sentiments(raw: Raw) -> dict[str, Rows]:
    """Lines of a text, a tab, and 0 for negative or 1 for positive."""
    tables = {}
    for path, file in raw.items():
        rows = tables[f"{Path(path).stem}.jsonl"] = []
        for line in file.read_text(encoding="utf-8").split("\n"):
            text, _, label = line.rpartition("\t")
            if text:
                names = ("negative", "positive")
                rows.append({"text": text.strip(), "labels": [names[int(label)]]})
    return tables


def subjectivity(raw: Raw) -> dict[str, Rows]:
    """Lines `0|1 text`; of ten buckets by a hash of the text, eight are train (our split)."""
    tables = {"train.jsonl": [], "test.jsonl": []}
    (file,) = raw.values()
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        label, _, text = line.partition(" ")
        if text := text.strip():
            bucket = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16) % 10
            row = {"text": text, "labels": [("objective", "subjective")[int(label)]]}
            tables["train.jsonl" if bucket < 8 else "test.jsonl"].append(row)
    return tables


def tweets(property_: str) -> Callable[[Raw], dict[str, Rows]]:
    """A file of texts and one of labels for each split, line by line."""

    def convert(raw: Raw) -> dict[str, Rows]:
        lines = {
            Path(path).stem: file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            for path, file in raw.items()
        }
        names, tables = (f"not {property_}", property_), {}
        for split in ("train", "val", "test"):
            pairs = zip(lines[f"{split}_text"], lines[f"{split}_labels"], strict=True)
            tables[f"{split}.jsonl"] = [{"text": t, "labels": [names[int(x)]]} for t, x in pairs]
        return tables

    return convert


def reuters(raw: Raw) -> dict[str, Rows]:
    """SGML of Reuters-21578, ModApte split, with the topics that both of its parts have."""
    parts = {"TRAIN": {}, "TEST": {}}
    for file in raw.values():
        sgml = file.read_text(encoding="latin-1")
        for head, body in re.findall(r"<REUTERS (.*?)>(.*?)</REUTERS>", sgml, flags=re.DOTALL):
            marks = dict(re.findall(r'(\w+)="(.*?)"', head))
            if marks["TOPICS"] == "YES" and marks["LEWISSPLIT"] in parts:
                topics = _between("TOPICS", body)
                row = {
                    "id": int(marks["NEWID"]),
                    "text": _story(body),
                    "labels": re.findall("<D>(.*?)</D>", topics),
                }
                parts[marks["LEWISSPLIT"]][row["id"]] = row
    topics_of = [{x for row in part.values() for x in row["labels"]} for part in parts.values()]
    shared = set.intersection(*topics_of)
    tables = {}
    for name, part in parts.items():
        rows = [part[number] for number in sorted(part)]
        rows = [row | {"labels": sorted(shared & set(row["labels"]))} for row in rows]
        tables[f"{name.lower()}.jsonl"] = [row for row in rows if row["labels"]]
    return tables


def _story(body: str) -> str:
    """Title and body of a story; all of an unprocessed one, the title of a brief."""
    kind = re.search(r'<TEXT(?: TYPE="(\w+)")?>', body)[1]
    inner = re.search(r"<TEXT.*?>(.*?)</TEXT>", body, flags=re.DOTALL)[1]
    title, text = _between("TITLE", inner).strip(), _between("BODY", inner)
    story = {"UNPROC": inner, "BRIEF": title}.get(kind, f"{title}\n{text}")
    story = html.unescape(re.sub(r"&#\d+;", "", story))
    story = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", story).strip()
    return re.sub(r"\s+Reuter$", "", story, flags=re.IGNORECASE).strip()


def _between(tag: str, text: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
    return found[1] if found else ""


def patents(raw: Raw) -> dict[str, Rows]:
    """Tab-separated records of patents; families are joined by title or abstract."""
    records: dict[str, dict] = {}
    for file in raw.values():
        for line in file.read_text(encoding="utf-8-sig").split("\n"):
            cells = line.split("\t")
            codes = _ipc_codes(cells[-1]) if len(cells) == 6 else []
            number = cells[0].replace(",", "").strip()
            if codes and number not in records:
                records[number] = {
                    "id": number,
                    "title": cells[1].strip(),
                    "abstract": cells[2].strip(),
                    "ipc": codes,
                    "labels": sorted({code[:4] for code in codes}),
                }
    family = _families(records)
    tables = {"train.jsonl": [], "dev.jsonl": []}
    for number in sorted(records):
        hashed = hashlib.sha1(family[number].encode(), usedforsecurity=False)
        percent = int(hashed.hexdigest(), 16) % 100
        if percent < 80:  # what is left is nobody's, for later checks
            table = tables["train.jsonl" if percent < 70 else "dev.jsonl"]
            table.append(records[number] | {"group": family[number]})
    return tables


def _ipc_codes(cell: str) -> list[str]:
    """Codes such as "A01B 1/02" in order, each once, without the dates in brackets."""
    codes = (code.strip() for code in re.split("[;,]", re.sub(r"\(\d+\)", "", cell)))
    return list(dict.fromkeys(code for code in codes if re.match(r"[A-H]\d\d[A-Z]\b", code)))


def _families(records: dict[str, dict]) -> dict[str, str]:
    """The smallest number among the records that share a title or an abstract's beginning."""
    parent = {number: number for number in records}

    def root(number: str) -> str:
        while parent[number] != number:
            number = parent[number]
        return number

    seen: dict[tuple[str, str], str] = {}
    for number, record in records.items():
        title, abstract = (_normalized(record[key]) for key in ("title", "abstract"))
        keys = [("title", title)] if len(title.split()) >= 3 else []
        keys += [("abstract", abstract[:120])] if abstract else []
        for key in keys:
            first, second = sorted((root(number), root(seen.setdefault(key, number))))
            parent[second] = first
    return {number: root(number) for number in records}


def _normalized(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


CONVERSIONS: dict[str, Callable[[Raw], dict[str, Rows]]] = {
    "banking77": texts_and_labels,
    "trec6": questions,
    "sst2": sentiments,
    "subj": subjectivity,
    "tweet_irony": tweets("ironic"),
    "tweet_offensive": tweets("offensive"),
    "reuters_r90": reuters,
    "patents_ipc": patents,
}
