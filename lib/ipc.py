"""Codes of the International Patent Classification as a hierarchy: A > A01 > A01B > A01B 33."""

import re

LEVELS = ("section", "class", "subclass", "main_group")

# A code ends after any level. The subclass is followed by 033 and 08 (WIPO-Alpha), 0033 and 080000
# (WIPO Standard ST.8), 33/08, or 33 alone. A group alone with no space before it has up to three
# digits, or four if the first is 0 (as in ST.8: 0033) or 2 (as in indexing codes: 2115): other four
# digits may be a group and its subgroup.
CODE = re.compile(
    r"([A-H])(?:(\d\d)(?:([A-Z])"
    r"(?:(\d{4})\d{6}|(\d{3})\d{2,6}|\s*(\d{1,4})/\d{2,6}|\s+(\d{1,4})|(\d{1,3}|[02]\d{3}))?)?)?"
    r"(?:\s*\([\d.]*\)|\s+\d{8}[A-Z]*\d*[A-Z]*)?",  # edition: "(2006.01)" or as in ST.8
    re.ASCII,
)


def cut_code(code: str, level: str) -> str:
    """The code's label at `level`: "A", "A01", "A01B" or "A01B 33" (main group, no zero padding).

    The code is written as in WIPO-Alpha ("A01B03308": main group 033, subgroup 08), as in WIPO
    Standard ST.8 ("A01B0033080000"), as people do ("A01B 33/08", "A01B 033/08 (2006.01)") or
    coarser ("A01B 33", "A01B33", "A01B", "A01", "A"), in upper or lower case. A code of main group
    0, which the classification does not have, ends at its subclass.

    Raises `ValueError` if the code is malformed or ends above `level`, which is one of `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"level: {level!r} is not one of {', '.join(LEVELS)}")
    labels = _labels(code)
    if len(labels) <= LEVELS.index(level):
        raise ValueError(f"IPC code {code!r} names no {level.replace('_', ' ')}; use a finer code")
    return labels[LEVELS.index(level)]


def parent(label: str) -> str | None:
    """The label one level up ("A01B 33" -> "A01B" -> "A01" -> "A"), None above a section.

    Raises `ValueError` for a label that is not written as `cut_code` writes it.
    """
    labels = _labels(label)
    if label != labels[-1]:
        raise ValueError(f"{label!r} is not an IPC label such as {labels[-1]!r}; see cut_code")
    return labels[-2] if len(labels) > 1 else None


def _labels(code: str) -> list[str]:
    """The code's labels, from the section to the finest level that it names."""
    match = CODE.fullmatch(code.strip().upper())
    section, digits, letter, *groups = match.groups() if match else [None] * 6
    group = int(next(filter(None, groups), 0))  # 0 is no main group, but is in real data
    if section is None:
        raise ValueError(
            f"IPC code {code!r} is malformed; write it as in 'A01B03308' or 'A01B 33/08', "
            "section A to H first"
        )
    labels = [section]
    for part in (digits, letter, f" {group}" if group else ""):
        if part:
            labels.append(labels[-1] + part)
    return labels
