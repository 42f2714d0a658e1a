"""The verdict of a study: one sentence for a reader without statistics, and a line per arm.

Both rest on `lib.report.recommendation` and the tests behind it alone.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from lib.evaluation.significance import distinguishable
from lib.report.columns import name_html
from lib.report.recommendation import difference
from lib.report.sentences import fill
from lib.report.wording import format_delta, format_f1, format_p, format_saving, format_time

MAX_NAMED = 3  # arms that one sentence names (our choice)

VERDICT = """
{% if kind == "alone" %}
Only **{{ best }}** has run, so there is nothing to compare it with.
{% elif kind == "nothing right" %}
No approach got a single label right, so none is recommended.
{% elif kind == "hardly right" %}
No approach is recommended: even {{ best }}, which has the highest score, gets hardly a label right.
{% elif kind == "clear_winner" %}
Use **{{ best }}**: it answers better than {{ "the other approach" if num == 2 else "each of the
other %d approaches" % (num - 1) }}, by more than chance easily explains
{%- elif kind == "cheaper_tie" and arm == best %}
Use **{{ best }}**: it has the highest score, and no clearly cheaper approach is known to lose
little against it
{%- elif kind == "cheaper_tie" %}
Use **{{ arm }}**: it costs {{ saving }} {{ than }} {{ best }}, which has the highest score, and is
not shown to answer worse
{%- elif kind == "tie" %}
No approach is recommended: {{ best }} has the highest score, {{ tied | listed }}
{{ "is" if tied | length == 1 else "are" }} not shown to answer worse, and their costs do not decide
it.
{% else %}
There is too little data to recommend an approach: {{ best }} has the highest score, but a
difference from {{ tied | listed }} that matters could have been missed.
{% endif %}
{%- if kind in ("clear_winner", "cheaper_tie") %}
{{- ", as far as %s can tell" % runs if runs }}.
{% endif %}
"""

CHANGES = """
Compared with **{{ reference }}**,
{% if better or worse %}
{{- (better | listed) ~ (" is" if better | length == 1 else " are") ~ " better" if better }}
{{- " and " if better and worse }}
{{- (worse | listed) ~ (" is" if worse | length == 1 else " are") ~ " worse" if worse }}
{{- ", by more than chance easily explains" }}
{{- "; the other %d %s not shown to differ" % (others, "is" if others == 1 else "are") if others }}.
{%- elif others %}
{{- "the other arm is not" if others == 1 else "none of the other %d arms is" % others }} shown to
differ.
{%- else %}
nothing else has run.
{%- endif %}
"""

# Signs and words of an arm beside the anchor, the arm that all others are judged by. The keys of
# `STANDS` are classes of `template/style.css`.
RECOMMENDED, HIGHEST, REFERENCE = "★ recommended", "◆ highest score", "◆ reference"
STANDS = {"better": "▲ better", "open": "● not shown to differ", "worse": "▼ worse"}

LEGEND = """
**Better** and **worse**: than {{ anchor }}, by interval and adjusted test.
**Not shown to differ** does not mean equally good: chance may hide a difference.
{% if single %}
**Right**: of 100 test documents, about so many get the right label.
**Micro-F1** is that share if every document gets a label; 1 is perfect;
{% else %}
**Right**: of 100 labels given, about so many are right, and of 100 labels that apply, about so many
are found. **Micro-F1** balances the two; 1 is perfect;
{% endif %}
its 95 % interval is in brackets.
{% if kinds | length == 1 %}
All are variants of one approach: {{ kinds[0] }}.
{% endif %}
"""


def give_verdict(recommendation: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The result of `recommend` as one sentence of Markdown; `names` are the arms in words."""
    arm, best, f1 = (recommendation[x] for x in ("arm", "best", "micro_f1"))
    tied = [names[pair["arm"]] for pair in recommendation["not_distinguishable_from"]]
    kind, dollars = recommendation["kind"], recommendation["cost_dollars"]
    if len(f1) == 1:
        kind = "alone"
    elif not f1[best]["f1"]:
        kind = "nothing right"
    elif f1[best]["f1"] < recommendation["rules"]["margin"]:
        kind = "hardly right"
    # With fewer than three seeds, the sentence says so
    few = min(recommendation["num_seeds"][name] for name in {best, arm or best})
    runs = {1: "one training run of each", 2: "two training runs of each"}.get(few, "")
    cheaper = kind == "cheaper_tie" and arm != best
    saving = format_saving(dollars[best], dollars[arm]) if cheaper else ""
    than = "than" if cheaper and dollars[arm] else "beside"
    facts = {"kind": kind, "num": len(f1), "tied": _few(tied), "runs": runs}
    facts |= {"saving": saving, "than": than}
    return fill(VERDICT, **facts, best=names[best], arm=names.get(arm))


def judge_changes(pairwise: pd.DataFrame, reference: str, names: Mapping[str, str]) -> str:
    """The differences from the reference as one sentence of Markdown.

    `pairwise` is the table of `compare_all` with this reference; `names` are the arms in words.
    """
    micro = pairwise[pairwise["metric"] == "micro_f1"].sort_values("delta", ascending=False)
    certain = micro[distinguishable(micro)] if len(micro) else micro
    better = [names[arm] for arm in certain["arm_a"][certain["delta"] > 0]]
    worse = [names[arm] for arm in certain["arm_a"][certain["delta"] < 0][::-1]]
    facts = {"better": _few(better), "worse": _few(worse), "others": len(micro) - len(certain)}
    return fill(CHANGES, reference=names[reference], **facts)


def _few(names: list[str]) -> list[str]:
    """Up to `MAX_NAMED` names; of more, the last is the number of those left out."""
    if len(names) <= MAX_NAMED:
        return names
    return [*names[: MAX_NAMED - 1], f"{len(names) - MAX_NAMED + 1} others"]


def arm_lines(
    comparison: pd.DataFrame,
    pairwise: pd.DataFrame,
    *,
    anchor: str,
    title: str,
    right: Mapping[str, str],
    names: Mapping[str, str],
) -> str:
    """A line per arm, as an HTML table: better or worse than the anchor, its score and its cost.

    Signs and words carry the meaning; colours repeat it.

    Parameters
    ----------
    comparison, pairwise
        See `lib.report.tables.compare_runs`.
    anchor, title
        The arm that all others are judged by, and the words in its line, such as `RECOMMENDED`.
    right
        `count_right` of each arm.
    names
        Arms in words.
    """
    head = ("verdict", "approach", "right", "micro-F1", "training", "documents/s")
    titles = "".join(f'<th scope="col">{name}</th>' for name in head)
    rows = f"<thead><tr>{titles}</tr></thead>"
    for row in comparison.itertuples():
        kind, words, tip = "anchor", title, "the others are judged by it"
        if row.arm != anchor:
            kind, tip = _stand(difference(pairwise, row.arm, anchor))
            words = STANDS[kind]
        interval = f"({format_f1(row.micro_f1_low)}–{format_f1(row.micro_f1_high)})"
        cells = (
            f'<span class="mark" title="{tip}">{words}</span>', name_html(row.arm, names),
            escape(right[row.arm]), f"{format_f1(row.micro_f1)} <small>{interval}</small>",
            _time(row.train_seconds), _speed(row.infer_docs_per_second),
        )  # fmt: skip
        cells = [f'<td data-name="{x}">{cell}</td>' for x, cell in zip(head, cells, strict=True)]
        rows += f'<tr class="{kind}">{"".join(cells)}</tr>'
    return f'<table class="arms">{rows}</table>'


def _time(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "–"
    return format_time(seconds) if seconds else "none"


def _speed(documents: float) -> str:
    if not np.isfinite(documents):
        return "–"
    return f"{documents:,.0f}" if documents >= 10 else f"{documents:.2g}"


def explain_lines(anchor: str, *, single: bool, kinds: set[str]) -> str:
    """The meaning of the lines, in Markdown.

    `anchor` is named in words; `single` is true for single labels. A single member of `kinds`
    (`names.describe_arm`) shows that all arms are variants of one approach.
    """
    return fill(LEGEND, anchor=anchor, single=single, kinds=list(kinds))


def count_right(y_true: np.ndarray, y_pred: np.ndarray, *, single: bool) -> str:
    """The right answers of an arm, of a hundred, in words; means over seeds.

    With `single` labels they are of documents ("92 of 100"), else of labels given and of labels
    that apply ("85 of 100 given, 78 of 100 found"). `y_true` is (N, C) bool, `y_pred` (S, N, C)
    bool.
    """
    if single:
        right = (y_pred == y_true).all(axis=2)  # (S, N)
        return f"{_of_hundred(right.mean())} of 100"
    hits = (y_pred & y_true).sum(axis=(1, 2))  # (S,)
    given = np.maximum(y_pred.sum(axis=(1, 2)), 1)
    found = float((hits / max(y_true.sum(), 1)).mean())
    exact = float((hits / given).mean())
    return f"{_of_hundred(exact)} of 100 given, {_of_hundred(found)} of 100 found"


def _of_hundred(share: float) -> str:
    """A share as a number of a hundred; "0" and "100" only where it is exactly none or all."""
    if share in (0, 1):
        return f"{100 * share:.0f}"
    return "fewer than 1" if share < 0.005 else f"{min(round(100 * share), 99)}"


def _stand(pair: Mapping[str, Any]) -> tuple[str, str]:
    """A key of `STANDS`, and in words the numbers behind it, from a `difference`."""
    kind = "open"
    if pair["distinguishable"]:
        kind = "better" if pair["delta"] > 0 else "worse"
    low, high = (format_delta(pair[x]) for x in ("low", "high"))
    return kind, f"{format_delta(pair['delta'])} ({low} to {high}), {format_p(pair['p_holm'])}"
