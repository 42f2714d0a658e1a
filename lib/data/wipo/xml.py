"""One WIPO-Alpha file, from a directory or an archive, to a document; entities stay inert."""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from html.entities import html5
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from zipfile import BadZipFile, ZipFile

from defusedxml.ElementTree import DefusedXMLParser

from lib.errors import DataError
from lib.ipc import LEVELS, cut_code

PATHS = {
    "title": "tis/ti",
    "abstract": "abs/ab",
    "first_claim": "cls/cl",
    "claims": "cls/cl",
    "description": "txts/txt",
    "applicants": "pas/pa",
}
MAX_BYTES = 16 * 2**20  # our choice: a patent has some 40 KB, the longest a few MB
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# Entities that the collection's DTD may define: the ISO names (&eacute;).
ENTITIES = {name[:-1]: text for name, text in html5.items() if name.endswith(";")}
# Errors that an unreadable file raises; RuntimeError is that of an encrypted zip member.
UNREADABLE = (
    ValueError, SyntaxError, LookupError, EOFError, RuntimeError, BadZipFile, zlib.error,
)  # fmt: skip


FileEntry = tuple[str, int, int]  # relative path, bytes, mtime in ns (in an archive: CRC-32)
# Documents; bad files, each with its reason; dropped secondary codes, each with file and reason.
Chunk = tuple[list[dict], list[tuple[str, str]], list[tuple[str, str]]]


def read_chunk(
    root: Path, entries: list[FileEntry], fields: Sequence[str], description_words: int
) -> Chunk:
    """Documents of some files, and pairs of file and reason for bad files and for dropped codes.

    Raises `DataError` if the machine cannot read a file.
    """
    documents, bad, dropped = [], [], []
    for entry in entries:
        try:
            document, malformed = _read_document(root, entry, fields, description_words)
        except OSError as error:  # the machine's fault, not the file's: not to be cached
            raise DataError(f"{root}: {entry[0]} cannot be read: {error.strerror}") from None
        except UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            bad.append((entry[0], reason))
        else:
            documents.append(document)
            dropped += [(entry[0], f"secondary code dropped: {reason}") for reason in malformed]
    return documents, bad, dropped


def _read_document(
    root: Path, entry: FileEntry, fields: Sequence[str], description_words: int
) -> tuple[dict, list[str]]:
    folders = entry[0].lower().split("/")[:-1]
    split = next((folder for folder in folders if folder in ("train", "test")), None)
    if split is None:
        raise ValueError("lies below neither train nor test")
    record = _parse_xml(_read_bytes(root, entry))
    pn = " ".join(record.get("pn", "").split())
    if record.tag != "record" or not pn:
        raise ValueError("does not start with a <record> that has a pn")
    ipcs = record.find("ipcs")
    main = "" if ipcs is None else ipcs.get("mc", "").strip()
    if not main:
        raise ValueError("no main code (mc of <ipcs>)")
    cut_code(main, LEVELS[-1])
    codes, malformed = [main], []
    for code in (ipc.get("ic", "").strip() for ipc in ipcs.iter("ipc")):
        try:
            cut_code(code, LEVELS[-1])
            codes.append(code)
        except ValueError as error:
            malformed.append(str(error))
    texts = {field: _text(record, field, description_words) for field in fields}
    if not any(texts.values()):
        raise ValueError(f"no text in {', '.join(fields)}")
    return {"file": entry[0], "id": pn, "split": split, "codes": codes} | texts, malformed


def _read_bytes(root: Path, entry: FileEntry) -> bytes:
    name, size, _ = entry
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes are more than the {MAX_BYTES} that are read")
    archive = None if root.is_dir() else open_archive(root, root.stat().st_mtime_ns)
    with archive.open(name) if archive else (root / name).open("rb") as file:
        return file.read(MAX_BYTES)


@lru_cache(maxsize=1)
def open_archive(root: Path, mtime_ns: int) -> ZipFile:
    """The archive, kept open per worker: listing 75,000 members takes half a second.

    `mtime_ns` is there for the cache alone: an archive that has changed is opened anew.
    """
    return ZipFile(root)


def _parse_xml(content: bytes) -> Element:
    """The root element; a declared entity is refused, and the DTD is not loaded."""
    parser = DefusedXMLParser(target=TreeBuilder())
    parser.entity.update(ENTITIES)
    parser.feed(content)
    return parser.close()


def _text(record: Element, field: str, description_words: int) -> str:
    """The text of a field, in English if some of it is, with white space joined."""
    elements = record.findall(PATHS[field])
    english = [e for e in elements if e.get(LANGUAGE, "en").lower().startswith("en")]
    texts = [" ".join(" ".join(e.itertext()).split()) for e in english or elements]
    texts = [text for text in texts if text]
    if field == "first_claim":
        return _first_claim(texts[0]) if texts else ""
    text = ("; " if field == "applicants" else " ").join(texts)
    if field == "description":
        text = " ".join(text.split(" ", description_words)[:description_words])
    return text


def _first_claim(claims: str) -> str:
    """The text between "1." and "2."; all of it if the claims are not numbered in this way."""
    start = re.match(r".{0,100}?(?<![\w.,])1\s?[.)]\s", claims)
    rest = claims[start.end() :] if start else claims
    return re.split(r"\s2\s?[.)]\s?(?=[A-Z])", rest, maxsplit=1)[0]
