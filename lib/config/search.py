"""Candidates of a search: an arm's parameters with other values of some of them."""

import math
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, TypeVar

from pydantic import ValidationError

from lib.config.data import DataParams
from lib.config.group import Group
from lib.config.strict_yaml import suggestion

Params = TypeVar("Params", bound=Group)

SEARCH = {"search", "search_epochs"}  # parameters of the search, which no candidate has
MAX_CANDIDATES = 100  # our choice


def expand(search: Mapping[str, list] | list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The values of each candidate: all combinations of the lists, or one list as it is."""
    if isinstance(search, list):
        return [dict(values) for values in search]
    return [dict(zip(search, values, strict=True)) for values in product(*search.values())]


def searched(params: Group) -> set[str]:
    """Names of the parameters whose value validation chooses."""
    search = getattr(params, "search", {})
    return {name for values in expand(search) for name in values} if search else set()


def candidates_of(params: Params, fixed: Iterable[str]) -> list[Params]:
    """The arm's parameters with the values of each candidate, in the order of the search.

    Raises `ValueError` if the search names a parameter that does not exist, is `fixed` or is one of
    the data; if it has no candidate, more than `MAX_CANDIDATES`, one twice or an invalid one; or if
    `search_epochs` are more than a candidate's `num_epochs`.
    """
    lists = params.search.values() if isinstance(params.search, dict) else [params.search]
    if (number := math.prod(map(len, lists))) > MAX_CANDIDATES:
        raise ValueError(f"search: {number:,} candidates; {MAX_CANDIDATES} are the most")
    fields, values_of = type(params).model_fields, expand(params.search)
    if not values_of:
        raise ValueError("search: a list is empty; give each parameter at least one value")
    for name in dict.fromkeys(name for values in values_of for name in values):
        if name not in fields:
            raise ValueError(f"search: {name}: unknown parameter{suggestion(name, fields)}")
        if name in DataParams.model_fields:
            raise ValueError(f"search: {name}: would change the documents, which all arms share")
        if name in (*fixed, *SEARCH):
            raise ValueError(f"search: {name}: belongs to the study or the run, not to a candidate")
    found = []
    for values in values_of:
        given = params.model_dump(exclude=SEARCH) | values
        try:
            candidate = type(params)(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{first['loc'][0]}: " if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"search: {values}: {where}{message}") from None
        if candidate in found:
            raise ValueError(f"search: {values} is given twice; leave it once")
        if params.search_epochs > candidate.num_epochs:
            raise ValueError(
                f"search_epochs: {params.search_epochs} epochs are more than num_epochs, "
                f"{candidate.num_epochs}; lower it"
            )
        found.append(candidate)
    return found
