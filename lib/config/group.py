"""The base of all groups of parameters: flat, strict, frozen and described field by field."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from lib.storage import ROOT


def _once_each(values: list) -> list:
    """The values; `ValueError` if one comes twice."""
    if len(set(values)) < len(values):
        raise ValueError("names a value twice; leave each in once")
    return values


def _tokens_or_auto(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value > 0):
        return value
    raise ValueError('give a number of tokens above 0, or "auto"')


Distinct = AfterValidator(_once_each)  # a list without repeats
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Length = Annotated[int | Literal["auto"], PlainValidator(_tokens_or_auto)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Group(BaseModel):
    """Parameters that belong together; the string below a field is its meaning for users."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def local_files(name: str) -> list[Path]:
    """A list of the file of that name, relative to the project's root; [] if there is none.

    Of a folder it is the path that was changed last, of those within and the folder itself, whose
    time changes with what is added or removed. One path represents all of them: the 75,000 files of
    a large collection, listed for each run, would fill Snakemake's log.
    """
    path = ROOT / name
    paths = [found for found in (path, *path.rglob("*")) if found.exists()] if name else []
    return [max(paths, key=lambda found: found.stat().st_mtime_ns)] if paths else []
