"""Label sets as columns of yes and no, one per label."""

from collections.abc import Container, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.data.tables import as_objects, cell_text
from lib.errors import DataError

# Cells in lower case; numbers such as 1.0 are whole before.
YES, NO = {"1", "true", "t", "yes", "y", "x"}, {"0", "false", "f", "no", "n"}


def marks(cells: pd.Series) -> pd.Series:
    """Cells that are texts as `YES` and `NO` have them."""
    return cells.str.lower().str.replace(r"^([01])\.0+$", r"\1", regex=True)


def blank_means_no(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> set[str]:
    """The indicator columns in which a blank cell means no, because no table writes a no there.

    A wholly blank column is one of them if all others are.
    """
    found = {
        name: {
            mark for t in tables if name in t for mark in marks(as_objects(t[name]).map(cell_text))
        }
        for name in columns
    }
    no_missing = {name for name, written in found.items() if not written & NO}
    all_of_them = len(no_missing) == len(found)
    return no_missing if all_of_them else {name for name in no_missing if found[name] & YES}


def read_indicators(
    columns: Mapping[str, pd.Series], rows: pd.Series, blank_is_no: Container[str], source: str
) -> list[list[str]]:
    """The names of the columns that contain a yes, per row.

    Parameters
    ----------
    columns
        Cells as texts, (N,), of each indicator column.
    rows
        (N,) numbers of the documents, for messages.
    blank_is_no
        Columns in which a blank cell means no: see `blank_means_no`.

    Raises
    ------
    DataError
        A cell is neither; the message names its document.
    """
    names = list(columns)
    multi_hot = np.zeros((len(rows), len(names)), dtype=bool)
    for at, (name, written) in enumerate(columns.items()):
        cells = marks(written)
        multi_hot[:, at] = yes = cells.isin(YES)
        other = ~yes & ~cells.isin(NO) & ~((cells == "") & (name in blank_is_no))
        if other.any():
            raise DataError(
                f"{source}: document {rows[other].iloc[0]}: {name!r} is "
                f"{written[other].iloc[0]!r}, neither 0 nor 1; write one of them"
            )
    return [[names[c] for c in np.flatnonzero(row)] for row in multi_hot]
