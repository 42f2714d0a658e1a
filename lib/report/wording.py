"""Numbers, names and lists in sentences; rounding contradicts no statement about a number.

Limits without a source are our choices.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from lib.evaluation.intervals import ALPHA

# The characters that `printable` describes.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
REPLACEMENT = "\ufffd"
MAX_DIGITS = 7  # digits tried, from the fewest on, before all of them are printed


def format_f1(value: float | None, *marks: float) -> str:
    """Score as "0.912": three decimals, or more where rounding would reach 0, 1 or one of `marks`.

    None and NaN are "not known", here and in `format_delta` and `format_p`.
    """
    return _rounded(value, (0, 1, *marks), ".{}f", 3)


def format_delta(value: float | None) -> str:
    """Difference as "+0.012": like `format_f1`, with its sign; "0.000" only for none at all."""
    return "0.000" if value == 0 else _rounded(value, (-1, 0, 1), "+.{}f", 3)


def format_p(p: float | None) -> str:
    """Significance as "p = 0.012", or "p < 0.001" where more digits would pretend to precision.

    A p above or below 0.05 gets as many digits as keep it from being printed as 0.05.
    """
    known = p is not None and not math.isnan(p)
    return "p < 0.001" if known and p < 0.001 else f"p = {_rounded(p, (ALPHA, 1), '.{}g', 2)}"


def format_money(dollars: float) -> str:
    """Money as "1.20 dollars"."""
    return f"{dollars:,.2f} dollars" if dollars >= 0.01 else "less than a cent"


def format_share(share: float) -> str:
    """Share of a whole as "12 %"; "none" and "all" only where it is exactly 0 or 1."""
    if share in (0, 1):
        return "all" if share else "none"
    return "less than 1 %" if share < 0.01 else f"{min(round(100 * share), 99)} %"


def format_time(seconds: float) -> str:
    """Seconds as "90 s", "12 min" or "3.5 h"."""
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def format_saving(dear: float, cheap: float) -> str:
    """Ratio of two costs, given in either order, as "2.6 times less"."""
    dear, cheap = max(dear, cheap), min(dear, cheap)
    if cheap == 0:
        return "next to nothing"
    ratio = dear / cheap
    return f"{ratio:.1f} times less" if ratio < 10 else f"{ratio:,.0f} times less"


def format_range(few: int, many: int) -> str:
    """Range as "1 to 3", or "3" if both are the same."""
    return f"{many}" if few == many else f"{few} to {many}"


def join(items: Sequence[str]) -> str:
    """List as "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def printable(text: str) -> str:
    """The text, of the same length, with U+FFFD for characters that a page does not show.

    These are control characters other than tab and line feed, halves of surrogate pairs, and
    characters that turn the direction of the text behind them, with which one name can read as
    another (Unicode, UAX 9).
    """
    return UNPRINTABLE.sub(REPLACEMENT, text)


def shorten(name: str, characters: int = 32) -> str:
    """The name, `printable`, in at most so many characters; the last is "…" if it is cut."""
    name = printable(name)
    return name if len(name) <= characters else name[: characters - 1] + "…"


def beginning(text: str, characters: int) -> str:
    """The beginning of a text on one line, `printable`, with "…" at the end if it is cut."""
    return shorten(" ".join(text[: 4 * characters].split()), characters)


def _rounded(value: float | None, marks: Sequence[float], form: str, digits: int) -> str:
    """The fewest digits with which the value is on the same side of every mark."""
    if value is None or not math.isfinite(value):
        return "not known"
    for count in range(digits, MAX_DIGITS + 1):
        text = format(value, form.format(count))
        if all(np.sign(float(text) - mark) == np.sign(value - mark) for mark in marks):
            return text
    return format(value, form.format(17).replace("f", "g"))
