"""The part of the test documents that each arm reads, where arms differ in it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.report.sentences import fill
from lib.report.wording import format_share

READING = """
**Arms read differently:**
{% for way in ways %}
{{ way.arms | listed }} {{ "read" if way.arms | length > 1 else "reads" }}
{{ "whole texts" if not way.max_length else "the first %d tokens" % way.max_length
   if way.windows == 1 else "up to %d windows of %d tokens" % (way.windows, way.max_length) }}
{%- if way.max_length %}
{{- ", which cuts " }}
{%- if way.shares %}{{ way.shares | listed }} of{% else %}an unrecorded share of{% endif %}
the test documents
{%- endif %}
{{- "." if loop.last else ";" }}
{% endfor %}
A difference between them may come from that.
"""


def describe_reading(runs: pd.DataFrame) -> str:
    """Tokens and windows that arms read, and the share of test documents that they cut, in words.

    "" where all arms read alike, or none cuts any. `runs` has `arm params test_cut_share`; the last
    is missing in runs of earlier versions, whose share is then called unrecorded.
    """
    ways: dict[tuple[int, int], dict[str, list]] = {}
    for arm, some in runs.groupby("arm", sort=False):
        way = ways.setdefault(_way(some["params"].iloc[0]), {"arms": [], "shares": []})
        way["arms"].append(arm)
        way["shares"].append(pd.to_numeric(some["test_cut_share"]).mean())
    cut = [share for (length, _), way in ways.items() if length for share in way["shares"]]
    if len(ways) < 2 or not np.any(np.nan_to_num(cut, nan=1)):
        return ""
    return fill(READING, ways=[_facts(*way, **found) for way, found in ways.items()])


def _way(params: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens per window and windows per document that an arm reads; 0 tokens: whole texts."""
    if params.get("method") == "tfidf" and params.get("read", "all") == "all":
        return 0, 1
    return params["max_length"], params.get("windows", 1)


def _facts(max_length: int, windows: int, *, arms: list[str], shares: list[float]) -> dict:
    """Facts for `READING` on one way to read; shares from the smallest on, each once."""
    known = dict.fromkeys(map(format_share, sorted(share for share in shares if share == share)))
    return {"max_length": max_length, "windows": windows, "arms": arms, "shares": list(known)}
