"""Sentences of the report: templates, filled with its numbers.

A template is a sentence or a paragraph; a line break in it is a space in the text.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined, Template

from lib.evaluation.curves import Curve
from lib.evaluation.intervals import ALPHA
from lib.evaluation.significance import distinguishable
from lib.report import wording
from lib.report.wording import format_delta, format_f1, format_p, format_range, join

RULES = """\
- Two arms are **distinguishable** where the paired 95 % interval of their difference in micro-F1
  excludes zero and Holm's adjusted p is below {{ "%g" % alpha }}.
- **Clear winner**: the arm of the highest micro-F1, if it is distinguishable from every other.
- Otherwise it is tied with those from which it is not distinguishable. The tie says something
  about an arm only where a difference of {{ "%g" % margin }} could have been found (minimum detectable
  difference, 80 % power at 5 %). **Too little data**: it says nothing about any of them.
- **Cheaper tie**: an arm costs the money of its seconds of training and of classifying
  {{ "{:,}".format(num_documents) }} documents, at {{ "%g" % dollars_per_core_hour }} dollars per hour of each CPU core that it was
  given, or {{ "%g" % dollars_per_gpu_hour }} dollars per hour of a GPU. Candidates are the tied arms that the tie
  says something about, whose interval excludes that they lose more than {{ "%g" % margin }}, and than which
  no arm is distinguishably better. Cheaper is
  one of which the best arm costs at least {{ "%g" % cost_factor }} times as much. Of the cheaper ones that
  cost at most {{ "%g" % cost_factor }} times what the cheapest costs, that of the highest micro-F1 is
  recommended, TF-IDF or a frozen embedding like any other. Where none is cheaper, and a candidate
  costs at least {{ "%g" % cost_factor }} times what the best arm does, the best arm is recommended. An arm
  with a cost that is missing is not compared.
- **Tie**: none is clearly cheaper. Nothing is recommended.
- An arm with a micro-F1 of 0 is never recommended, and none where the highest is below {{ "%g" % margin }}.
"""  # noqa: E501 (line breaks of the text)

REASONS = {
    "alone": "{{ best }} alone has run: there is nothing to compare it with",
    "nothing right": "no arm has got a single label right",
    "hardly right": "even the micro-F1 of {{ best }} is below {{ '%g' % margin }}",
    "clear winner": "{{ best }} is distinguishably better than every other arm",
    "too little data": """
        {% if least >= 1 %}
        no difference in micro-F1, however large, could be relied on to be found,
        {% else %}
        a difference in micro-F1 below {{ least | f1(margin) }}
        {% if several %}
        ({{ most | f1(margin) if most < 1 else "of any size" }} against {{ arm }})
        {% endif %}
        could hardly have been found,
        {% endif %}
        and {{ "%g" % margin }} would matter; more test documents or seeds would decide it""",
    "costs unknown": "none of the tied arms is known to be cheaper at little loss",
    "cheaper": """
        {{ arm }} is not distinguishable from {{ best }},
        {{ "loses %s at most (95 %%)" % (loss | f1) if loss > 0 else "loses nothing" }}
        and costs {{ saving }}""",
    "dearer": """
        {{ best }} has the highest micro-F1, no tied arm is known to be {{ "%g" % factor }} times
        cheaper at little loss, and it costs {{ savings | listed }}""",
    "equal costs": "tied arms cost the same within a factor of {{ '%g' % factor }}",
}

BEST = """
**{{ best }}** {{ "has a micro-F1 of" if alone else "has the highest micro-F1," }}
{{ "as %s," % (level | listed) if level }} {{ f1.f1 | f1 }}
(95 % interval {{ f1.low | f1 }} to {{ f1.high | f1 }}, over test documents and
{{ "one seed, so without the luck of training" if seeds == 1 else "%d seeds" % seeds }})
{%- if certain_against %}
{{- "," if not_distinguishable_from else " and" }}
is distinguishably better than {{ certain_against | with_deltas }}
{%- endif %}
{%- if not_distinguishable_from %}
and is **not distinguishable** from {{ not_distinguishable_from | with_deltas }}
{%- endif %}.
"""

HEAD_OR_PROMPT = """
Head against prompt:
{% if not pair %}
not both have run, so this study has no answer.
{% else %}
{% if pair.arm %}
the {{ "head" if pair.arm == pair.head else "prompt" }} is better
{% else %}
neither is shown to be better
{% endif %}
({{ names[pair.head] }} minus {{ names[pair.prompt] }} {{ pair.delta | delta }},
{{ pair.low | delta }} to {{ pair.high | delta }}, Holm-adjusted {{ pair.p_holm | p }})
{%- if pair.arm %}.
{% elif pair.min_detectable is not none and pair.min_detectable < 1 %}, where
a true difference of {{ pair.min_detectable | f1 }} would have been found in four studies of five,
were this the only pair.
{% else %}, where
no difference, however large, would have been found in four studies of five.
{% endif %}
{% endif %}
"""

PICK = """
{% if arm is none %}
No arm is recommended: {{ reason }}.
{% elif seconds is none %}
Pick **{{ arm }}**: {{ reason }}; what it costs was not measured.
{% else %}
Pick **{{ arm }}**: {{ reason }}; training and classifying
{{ "{:,}".format(rules.num_documents) }} documents take {{ seconds | time }}
{%- if dollars is not none %}, {{ dollars | money }}{% endif %}.
{% endif %}
"""

EFFECTS = """
{% for side, effects in (("above", above), ("below", below)) if effects %}
In micro-F1, {{ side }} **{{ reference }}**: {{ effects | with_deltas }}.
{% endfor %}
{% if unclear %}
The paired 95 % interval of {{ unclear | listed }} includes zero: not distinguishable from
{{ reference }} here; differences
{{ "below %s" % (detectable | f1) if detectable < 1 else "of any size" }} (median) are found in
fewer than four studies of five.
{% endif %}
{% if unknown %}
Of {{ unknown | listed }} no interval is known.
{% endif %}
Intervals are not adjusted: of {{ "%d changes" % number if number > 1 else "one change" }} without
any effect, about {{ "%.2g" % expected }} would be expected to exclude zero. Distinguishable by
interval and Holm-adjusted test: {{ (certain or ["none"]) | listed }}.
"""

LEADER = """
With {{ "{:,}".format(size) }} training documents **{{ best.approach }}**
{{ "has the highest" if others else "reaches a" }} micro-F1,
{{ "as %s," % (level | listed) if level }} {{ best.micro_f1 | f1 }}
({{ best.micro_f1_low | f1 }} to {{ best.micro_f1_high | f1 }})
{%- if behind %}, before {{ behind | listed }}{% endif %}.
"""

CROSSING = """
**{{ ahead }}** overtakes {{ behind }} at about {{ "{:,.0f}".format(train_size) }} training
documents ({{ "{:,.0f}".format(low) if low > 0 else "fewer than the fewest" }} to
{{ "{:,.0f}".format(high) if high < infinity else "more than the most" }}; Holm-adjusted
{{ p_holm | p }}).
"""
UNCERTAIN_CROSSINGS = """
No certain crossing, although the curves meet (Holm-adjusted p of at least {{ "%g" % alpha }}):
{{ pairs | listed }}.
"""
NO_CROSSINGS = """
No two curves cross: of no pair does one approach lead with the fewest documents and the other with
the most.
"""

CURVE_INTERVALS = """
Intervals are 95 %, over test documents
{%- if most_seeds > 1 %} and {{ seeds }} seeds{% else %} alone: each arm has one seed{% endif -%}
; the differences at the largest size show which leads are certain there.
"""


def fill(template: str, **facts: Any) -> str:
    """A template's text, filled with these facts, on one line; a fact that is missing raises."""
    return " ".join(_compile(template).render(facts).split())


@lru_cache
def _compile(template: str) -> Template:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "f1": format_f1, "delta": format_delta, "p": format_p, "money": wording.format_money,
        "time": wording.format_time, "listed": join, "with_deltas": _with_deltas,
    }  # fmt: skip
    return environment.from_string(template)


def _with_deltas(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Arms with their differences, as "tfidf (+0.036) and frozen (no difference)"."""
    deltas = ["no difference" if p["delta"] == 0 else format_delta(p["delta"]) for p in pairs]
    return join([f"{pair['arm']} ({delta})" for pair, delta in zip(pairs, deltas, strict=True)])


def describe_rules(thresholds: Mapping[str, float]) -> str:
    """`RULES` with the `thresholds` of `lib.report.recommendation`, as a Markdown list."""
    return _compile(RULES).render(thresholds)


def give_reason(name: str, **facts: Any) -> str:
    """The reason of a recommendation: one of `REASONS`, filled."""
    return fill(REASONS[name], **facts)


def three_sentences(
    recommendation: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> str:
    """The answer of `recommend` as a Markdown list of three: best arm, head or prompt, arm to pick.

    `names` are the arms in words; None: their keys.
    """
    best, arm = recommendation["best"], recommendation["arm"]
    seeds, f1 = recommendation["num_seeds"][best], recommendation["micro_f1"]
    names = names or {name: name for name in f1}
    level = [names[name] for name, x in f1.items() if name != best and x == f1[best]]
    facts = {"alone": len(f1) == 1, "level": level, "f1": f1[best], "seeds": seeds}
    facts |= {"best": names[best], "arm": names.get(arm)}
    for pairs in ("certain_against", "not_distinguishable_from"):
        facts[pairs] = [x | {"arm": names[x["arm"]]} for x in recommendation[pairs]]
    facts = {**recommendation, **facts}
    costs = {unit: recommendation[f"cost_{unit}"].get(arm) for unit in ("seconds", "dollars")}
    second = fill(HEAD_OR_PROMPT, pair=recommendation["head_or_prompt"], names=names)
    return f"- {fill(BEST, **facts)}\n- {second}\n- {fill(PICK, **facts, **costs)}"


def conclude_effects(pairwise: pd.DataFrame, reference: str) -> str:
    """A paragraph, in Markdown, on the arms that differ from the reference and those that do not.

    `pairwise` is the table of `compare_all` with this reference.
    """
    micro = pairwise[pairwise["metric"] == "micro_f1"].sort_values("delta", ascending=False)
    if micro.empty:
        return give_reason("alone", best=reference) + "."
    effects = micro.rename(columns={"arm_a": "arm"})[["arm", "delta"]]
    unclear = micro[(micro["low"] <= 0) & (micro["high"] >= 0)]
    return fill(
        EFFECTS,
        reference=reference,
        above=effects[micro["low"] > 0].to_dict("records"),
        below=effects[micro["high"] < 0].iloc[::-1].to_dict("records"),
        unclear=list(unclear["arm_a"]),
        detectable=unclear["min_detectable"].fillna(1).median(),
        unknown=list(micro["arm_a"][micro[["low", "high"]].isna().any(axis=1)]),
        certain=list(micro["arm_a"][distinguishable(micro)]),
        number=len(micro),
        expected=ALPHA * len(micro),
    )


def describe_curves(table: pd.DataFrame, curves: Mapping[str, Curve], crossed: pd.DataFrame) -> str:
    """A Markdown list: the leaders with few and with many training documents, and crossings.

    `table`, `curves` and `crossed` are from `learning_curves`, `resample_curves` and `crossings`.
    """
    sizes = np.unique(np.concatenate([c.sizes for c in curves.values() if c.uses_training_data]))
    ends = [int(size) for size in dict.fromkeys((sizes[0], sizes[-1]))]
    lines = [_describe_leader(table, curves, size) for size in ends]
    lines += _describe_crossings(crossed)
    num_seeds = table["num_seeds"][table["train_size"] > 0]
    few, many = int(num_seeds.min()), int(num_seeds.max())
    lines.append(fill(CURVE_INTERVALS, most_seeds=many, seeds=format_range(few, many)))
    return "\n".join(f"- {line}" for line in lines)


def _describe_leader(table: pd.DataFrame, curves: Mapping[str, Curve], size: int) -> str:
    """The leader at a size and the F1 of the others, whether or not the lead is certain."""
    present = [name for name, c in curves.items() if not c.uses_training_data or size in c.sizes]
    at_size = table[table["train_size"].isin([0, size]) & table["approach"].isin(present)]
    best, *others = at_size.sort_values("micro_f1", ascending=False).to_dict("records")
    level = [row["approach"] for row in others if row["micro_f1"] == best["micro_f1"]]
    rest = [row for row in others if row["approach"] not in level]
    behind = [f"{row['approach']} {format_f1(row['micro_f1'])}" for row in rest]
    return fill(LEADER, size=size, best=best, others=others, level=level, behind=behind)


def _describe_crossings(crossed: pd.DataFrame) -> list[str]:
    """A sentence per certain crossing, and one for the pairs of which none is certain."""
    certain = crossed[crossed["certain"]].to_dict("records")
    lines = [fill(CROSSING, **row, infinity=np.inf) for row in certain]
    unclear = crossed[~crossed["certain"] & crossed["train_size"].notna()]
    if len(unclear):
        pairs = [f"{x.ahead} and {x.behind} ({format_p(x.p_holm)})" for x in unclear.itertuples()]
        lines.append(fill(UNCERTAIN_CROSSINGS, pairs=pairs, alpha=ALPHA))
    if len(crossed) and not lines:
        lines.append(fill(NO_CROSSINGS))
    return lines
