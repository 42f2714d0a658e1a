"""The text of a file in any encoding; files that are no text are told apart."""

import gzip
import re
import zlib
from pathlib import Path

import charset_normalizer

from lib.errors import DataError

# Byte order marks, the longer first: that of UTF-32 begins as that of UTF-16 does.
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
INNER_MARK = re.compile("(?m)^\ufeff")  # of files that were put one behind another
# First bytes of files that are no tables of text, and what to do with them.
GZIP = "packed by gzip; let its name end in .gz"
PARQUET = "Parquet; let its name end in .parquet"
NO_TEXT = {
    b"PK\x03\x04": "a workbook or a zip archive; save its sheet as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "a workbook; save its sheet as CSV UTF-8",
    b"\x1f\x8b": GZIP,
    b"PAR1": PARQUET,
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it",
    b"\xfd7zXZ\x00": "packed by xz; unpack it",
    b"7z\xbc\xaf\x27\x1c": "packed by 7-Zip; unpack it",
    **{b"BZh%d1AY&SY" % level: "packed by bzip2; unpack it" for level in range(1, 10)},
    b"%PDF-": "a PDF; save the table in it as CSV UTF-8",
    b"version https://git-lfs": "a pointer of Git LFS; get the file itself, with `git lfs pull`",
}
WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|table)[\s>]", re.IGNORECASE)
# The legacy encodings of the WHATWG Encoding Standard, as Python calls them, without the Mac's.
LEGACY = [f"cp{n}" for n in (866, 874, *range(1250, 1259), 932, 949)]
LEGACY += [f"iso8859_{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)]
LEGACY += ["koi8_r", "koi8_u", "gb18030", "big5", "euc_jp"]
# Escape sequences of encodings of 7 bits (ISO 2022), whose bytes are valid UTF-8 too.
ISO_2022 = {b"B": "ISO-2022-JP", b"@": "ISO-2022-JP", b")C": "ISO-2022-KR", b")A": "ISO-2022-CN"}
ESCAPED = re.compile(rb"\x1b\$(B|@|\)C|\)A)")
COMMONEST = "cp1252"  # the first among equals, as in browsers for Western locales
# A Latin letter beside one of another alphabet, as in no word.
MIXED = re.compile(r"[A-Za-z][\u0370-\u0fff]|[\u0370-\u0fff][A-Za-z]")
# Our choices.
MAX_SAMPLE = 200_000  # bytes that the detector of encodings reads
EQUAL_MESS = 0.05  # difference in the detector's measure of mess that decides nothing
MAX_CANDIDATES = 4  # encodings that an error names
MAX_LINES = 1000  # among which an error looks for the one to show
MAX_SHOWN = 60  # characters of a line that an error shows


def read_text(path: Path, *, packed: bool = False, table: bool = True) -> str:
    """The text of a file, unpacked with gzip if it is `packed`, without byte order marks.

    A byte order mark decides the encoding; without one it is UTF-8.

    Raises `DataError` that names likely encodings if the bytes are of another one; also for a
    workbook, an archive and the like, and, where a `table` is expected, for a web page.
    """
    raw = path.read_bytes()
    if packed and kind_of(raw, table=table) in ("", GZIP):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be unpacked: {error}") from None
    if kind := kind_of(raw, table=table):
        raise DataError(f"{path}: is no text but {kind}")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        place = f"{path}: line {line}: not {encoding.removesuffix('-sig').upper()}"
        found = f"{place} (byte {error.object[error.start]:#04x})"
        raise DataError(f"{found}; {_advice(raw, encoding)}") from None
    if raw.isascii() and (found := ESCAPED.search(raw)):
        line, name = raw.count(b"\n", 0, found.start()) + 1, ISO_2022[found[1]]
        raise DataError(
            f"{path}: line {line} contains an escape sequence of {name}; convert the file, for "
            f"example with `iconv -f {name} -t UTF-8`"
        )
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise DataError(f"{path}: line {line} contains a zero byte; {_advice(raw, encoding)}")
    return INNER_MARK.sub("", text)


def kind_of(raw: bytes, *, table: bool = True) -> str:
    """The kind of a file that is no text, by its first bytes, and a remedy; "" for others.

    A web page is such a file only where a `table` is expected.
    """
    if table and WEB_PAGE.match(raw.removeprefix(b"\xef\xbb\xbf")):
        return "a web page; get the file that it shows or links to"
    return next((kind for mark, kind in NO_TEXT.items() if raw.startswith(mark)), "")


def _advice(raw: bytes, encoding: str) -> str:
    """The remedy for bytes that are not of the expected encoding."""
    if encoding not in ("utf-8", "utf-8-sig"):
        return "it is damaged or cut off after its byte order mark; get the file anew"
    if b"\x00" in raw:
        order = "LE" if raw.index(b"\x00") % 2 else "BE"  # zero is the higher byte of ASCII
        return (
            "if the file is UTF-16 without a byte order mark, convert it, for example with "
            f"`iconv -f UTF-16{order} -t UTF-8`"
        )
    replaced = raw.decode("utf-8", errors="replace")
    good = len(re.findall(r"[^\x00-\x7f\ufffd]", replaced))
    if good > replaced.count("\ufffd"):
        return "most of the file is UTF-8; mend that line, which is damaged or of another encoding"
    # Only lines beyond ASCII distinguish encodings; one that they read differently is shown.
    lines = [line for line in raw.split(b"\n") if not line.isascii()]
    if not (likely := _likely(raw, b"\n".join(lines)[:MAX_SAMPLE])):
        return "convert the file to UTF-8 from the encoding that it was written in"
    line = max(lines[:MAX_LINES], key=lambda line: len({line.decode(name) for name in likely}))
    names = [name.replace("_", "-").upper() for name in likely]
    where = "the line" if line == lines[0] else "a line"
    read = [
        f"{name}, as which {where} reads {_around(line.decode(encoding).strip())!r}"
        for name, encoding in zip(names, likely, strict=True)
    ]
    return (
        f"likely {', or '.join(read)}; if {'one' if len(read) > 1 else 'that'} is right, convert "
        f"the file, for example with `iconv -f {names[0]} -t UTF-8`"
    )


def _around(line: str) -> str:
    """As much of a line as an error shows, with its first character beyond ASCII."""
    at = next((i for i, character in enumerate(line) if not character.isascii()), 0)
    return line[max(0, at - MAX_SHOWN // 2) :][:MAX_SHOWN] if at >= MAX_SHOWN else line[:MAX_SHOWN]


def _likely(raw: bytes, sample: bytes) -> list[str]:
    """The legacy encodings that read a sample about equally well, the likeliest first.

    Of code pages that read it alike, one is listed: Windows-1252, the commonest, if among them.
    """
    found: list[tuple[float, float, str]] = []
    for match in charset_normalizer.from_bytes(sample, cp_isolation=LEGACY):
        name = COMMONEST if COMMONEST in match.could_be_from_charset else match.encoding
        try:
            mixed = MIXED.search(sample.decode(name, errors="ignore")) is not None
            raw.decode(name)
        except UnicodeDecodeError:
            continue
        found.append((mixed + match.chaos, -match.coherence, name))
    found.sort(key=lambda entry: entry[0] >= 1)  # those that mix alphabets last
    even = [entry for entry in found if entry[0] <= found[0][0] + EQUAL_MESS]
    first = [name for *how, name in even if name == COMMONEST and how == list(even[0][:2])]
    return list(dict.fromkeys([*first, *(name for *_, name in even)]))[:MAX_CANDIDATES]
