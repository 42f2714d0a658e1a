"""Fonts for the texts of figures: an installed one for each character that the default lacks.

matplotlib draws a character with the first of a text's font families that has it, and a box where
none has. Label names come in any script, so the families are chosen by the characters.
"""

import contextlib
import functools
import logging
import unicodedata
import warnings
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from lib.report.wording import shorten

log = logging.getLogger(__name__)
MAX_NAMED = 12  # characters that a message names (our choice)


def tick_labels(names: Iterable[str], characters: int = 32) -> list[str]:
    """Names of labels for an axis: shortened, on one line, "$" escaped as no formula.

    Fonts that have the names' characters are added to matplotlib's `font.family`, in which all
    later texts are drawn.
    """
    names = [shorten(" ".join(name.split()), characters) for name in names]
    plt.rcParams["font.family"], _ = _families(plt.rcParams["font.family"], names)
    return [name.replace("$", r"\$") for name in names]


def cover(fig: Figure) -> str:
    """The characters of a figure's texts that no font has; texts get fonts for all others."""
    texts = [text for text in fig.findobj(Text) if text.get_text()]
    by_families: dict[tuple[str, ...], list[Text]] = {}
    for text in texts:
        by_families.setdefault(tuple(text.get_fontfamily()), []).append(text)
    missing: dict[str, None] = {}
    for families, group in by_families.items():
        found, lacking = _families(families, [text.get_text() for text in group])
        missing |= dict.fromkeys(lacking)
        for text in group if found != list(families) else ():
            text.set_fontfamily(found)
    return "".join(missing)


def describe_missing(characters: str) -> str:
    """A sentence on characters that no installed font has, with their scripts."""
    scripts = dict.fromkeys(unicodedata.name(c, "unnamed").split()[0].lower() for c in characters)
    more = f" and {len(characters) - MAX_NAMED} more" if len(characters) > MAX_NAMED else ""
    return (
        f"Boxes replace characters that no installed font has: {characters[:MAX_NAMED]}{more} "
        f"({', '.join(list(scripts)[:MAX_NAMED])}); install a font that has them, such as Noto's."
    )


def _families(families: Sequence[str], texts: Iterable[str]) -> tuple[list[str], str]:
    """The families with those that the texts need besides, and the characters that no font has."""
    needed = dict.fromkeys(c for text in texts for c in text if not _is_invisible(c))
    present = [font for family in families if (font := _font_of(family))]
    lacking = [c for c in needed if not any(_has(*font, c) for font in present)]
    found = list(families)
    for entry in _installed() if lacking else ():
        left = [c for c in lacking if not _has(entry.fname, entry.index, c)]
        if len(left) < len(lacking) and _font_of(entry.name) == (entry.fname, entry.index):
            found, lacking = [*found, entry.name], left
        if not lacking:
            break
    if len(found) > len(families):  # no warning that one of them has no bold style
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    missing = "".join(lacking)
    if missing:
        _report(missing)
        # the line that was logged replaces matplotlib's warnings, one per text and file
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
    return found, missing


@functools.cache
def _report(characters: str) -> None:
    """Log `describe_missing`, once per process for the same characters."""
    log.warning("figures: %s", describe_missing(characters))


def _is_invisible(character: str) -> bool:
    """Spaces, controls, joiners and variation selectors, which need no glyph."""
    selector = 0xFE00 <= ord(character) <= 0xFE0F or 0xE0100 <= ord(character) <= 0xE01EF
    return character.isspace() or selector or unicodedata.category(character) in ("Cc", "Cf")


def _font_of(family: str) -> tuple[str, int] | None:
    """File and face that matplotlib takes for a family in its plain style; None if it has none."""
    try:
        path = fontManager.findfont(FontProperties(family=[family]), fallback_to_default=False)
    except ValueError:
        return None
    return str(path), getattr(path, "face_index", 0)


def _has(file: str, face: int, character: str) -> bool:
    """True if a font has an outline of a character: matplotlib draws no coloured pictures."""
    font = _open(file, face)
    if font is None or not font.get_char_index(ord(character)):
        return False
    font.load_char(ord(character))
    return len(font.get_path()[0]) > 0


@functools.lru_cache(maxsize=1024)
def _open(file: str, face: int) -> FT2Font | None:
    try:
        return FT2Font(file, face_index=face)
    except (OSError, RuntimeError):  # removed, damaged, or of bitmaps alone
        return None


def _installed() -> list[FontEntry]:
    """Fonts of this machine, plain ones first, with those that matplotlib has not listed yet."""
    for file in set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}:
        with contextlib.suppress(Exception):  # a font that cannot be read is left out
            fontManager.addfont(file)
    # "Last Resort" has a box for every character
    entries = [e for e in fontManager.ttflist if not e.name.startswith("Last Resort")]
    return sorted(entries, key=lambda e: (e.style != "normal", "Sans" not in e.name, e.name))
