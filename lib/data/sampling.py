"""Sampling of a study's documents: stratified, grouped or by time, from the data seed alone.

Samples of one seed are nested: a larger one adds documents and takes none away.

    train_size  16  |================|
                32  |================|----------------|
                64  |================|----------------|--------------------------------|
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

from lib.config.data import DataParams
from lib.data.labels import LabelSpace
from lib.data.tables import UNSPLIT
from lib.errors import DataError

log = logging.getLogger(__name__)

# Our choices.
MIN_STRATIFIED = 16  # documents up to which a half is cut without regard to labels
MAX_STRATIFIED_LABELS = 1000  # most frequent labels that are balanced; each one takes time

Draw = Callable[..., pd.Index]  # (frame, size, *, at_least) -> rows


def sample_splits(parts: Mapping[str, pd.DataFrame], params: DataParams) -> dict[str, pd.DataFrame]:
    """Train, validation and test documents out of the parts that the data set has.

    The parts are tables with `labels` (list[str]) and, where they decide, `group` or `date`. A
    missing part is cut from train, or from the one part `UNSPLIT`: whole groups if there are
    groups, the latest documents if there are dates, and a stratified sample otherwise. It has as
    many documents as its parameter (`num_test`, `num_validation`) says. No group and no date that
    is held out is left in train. Of a part that is there, that many documents are sampled; 0: all.

    Raises `DataError` if a number does not fit the documents, or leaves too few for every class.
    """
    generator = np.random.default_rng(params.data_seed)

    def draw(frame: pd.DataFrame, size: int, *, at_least: int = 0) -> pd.Index:
        if params.multi_label:
            return _iteratively_stratified(frame, size, generator)
        return _stratified(frame, size, at_least=at_least)

    pool = parts[UNSPLIT] if UNSPLIT in parts else parts["train"]
    # Test comes first: of dates, it gets the latest.
    sizes = {"test": params.num_test, "validation": params.num_validation}
    to_cut = {name: size for name, size in sizes.items() if name not in parts}
    _require_enough(pool, to_cut, params)
    if params.date_column and not to_cut:
        log.warning("date_column: has no effect, for the data set has splits of its own")

    # Cut what is missing from the pool; the rest of it, or a sample of that, is train.
    cut = _cut_held_out_first if {"group", "date"} & set(pool.columns) else _cut_train_first
    result = cut(_shuffled(pool, generator), to_cut, draw, params)

    # Sample the held-out parts that the data set has.
    for name in [name for name in sizes if name not in to_cut]:
        part, size = parts[name], sizes[name]
        if size > len(part):
            log.warning("num_%s: %d of %d documents; all are taken", name, size, len(part))
        if 0 < size < len(part):
            part = _shuffled(part, generator)
            part = part.loc[draw(part, size)]
        result[name] = part
    return result


def _require_enough(pool: pd.DataFrame, to_cut: Mapping[str, int], params: DataParams) -> None:
    """Raise `DataError` if the pool cannot give the documents that are asked for."""
    num_train = params.num_train or len(pool) - sum(to_cut.values())
    classes = {label for labels in pool["labels"] for label in labels}
    if 0 in to_cut.values():
        why = "a split that is cut from train needs at least one document"
    elif num_train + sum(to_cut.values()) > len(pool) or num_train < 1:
        why = "lower the numbers"
    elif not params.multi_label and num_train < len(classes):
        why = f"train needs one of each of the {len(classes)} classes"
    else:
        return
    asked = {"train": params.num_train or "0 (the rest)", **to_cut}
    numbers = ", ".join(f"num_{name} {size}" for name, size in asked.items())
    raise DataError(
        f"{params.dataset}: cannot take {numbers} out of {len(pool)} training documents; {why}"
    )


def _cut_held_out_first(
    pool: pd.DataFrame, to_cut: Mapping[str, int], draw: Draw, params: DataParams
) -> dict[str, pd.DataFrame]:
    """Whole groups or the latest dates for each part to cut, and train from the rest."""
    least = 1 if params.multi_label else pool["labels"].explode().nunique()
    parts = {}
    for name, size in to_cut.items():
        if pool.empty:  # too few are left: the error below
            break
        held_out = _latest(pool, size) if "date" in pool else _whole_groups(pool, size)
        parts[name] = pool.loc[held_out[:size]]
        pool = pool.drop(index=held_out)
    if len(pool) < max(least, params.num_train):
        whole = "dates" if "date" in pool else "groups"
        raise DataError(
            f"{params.dataset}: {len(pool)} documents are left for train once whole {whole} are "
            f"held out, num_train is {params.num_train}; lower it, or the {whole} are too large"
        )
    kept = draw(pool, params.num_train or len(pool), at_least=1)
    return parts | {"train": pool.loc[sorted(kept)]}


def _cut_train_first(
    pool: pd.DataFrame, to_cut: Mapping[str, int], draw: Draw, params: DataParams
) -> dict[str, pd.DataFrame]:
    """A stratified sample for train, and then one of what is left for each part to cut.

    With one label per document, the only document of a class is then in train.
    """
    size = params.num_train or len(pool) - sum(to_cut.values())
    kept = draw(pool, size, at_least=1)
    parts, pool = {"train": pool.loc[sorted(kept)]}, pool.drop(index=kept)
    for name, size in to_cut.items():
        held_out = draw(pool, size)
        parts[name], pool = pool.loc[held_out], pool.drop(index=held_out)
    return parts


def nested_sample(
    labels: Sequence[Sequence[str]], size: int, *, multi_label: bool, seed: int
) -> np.ndarray:
    """Positions, ascending, (size,) int64, of a stratified sample; a smaller one lies within it.

    With one label per document, every label comes once first, the frequent ones before the rare;
    from there on each next document is of the label that is furthest behind its share
    (Sainte-Laguë's divisors: a larger parliament costs no party a seat). Documents with label sets
    are halved by iterative stratification. The half in which the sample ends is halved again, and
    so on; of a half of up to `MIN_STRATIFIED` documents, the first are taken. The samples of two
    seeds are independent.
    """
    generator = np.random.default_rng(seed)
    frame = _shuffled(pd.DataFrame({"labels": list(labels), "at": range(len(labels))}), generator)
    if multi_label:
        drawn = _halved(frame, size, generator)
    else:
        strata = frame["labels"].str[0]
        counts, rank = strata.map(strata.value_counts()), strata.groupby(strata).cumcount()
        behind = ((rank + 0.5) / counts).where(rank > 0, -counts)
        drawn = behind.sort_values(kind="stable").index[:size]
    return np.sort(frame["at"][drawn].to_numpy())


def _halved(frame: pd.DataFrame, size: int, generator: np.random.Generator) -> pd.Index:
    """`size` rows: some of the first stratified half, or all of it and some of the second."""
    if size >= len(frame) or len(frame) <= MIN_STRATIFIED:
        return frame.index[:size]
    first = _iteratively_stratified(frame, len(frame) // 2, generator)
    if size <= len(first):
        return _halved(frame.loc[first], size, generator)
    rest = _halved(frame.drop(index=first), size - len(first), generator)
    return first.append(rest)


def _shuffled(frame: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    return frame.iloc[generator.permutation(len(frame))].reset_index(drop=True)


def _whole_groups(frame: pd.DataFrame, size: int) -> pd.Index:
    """Rows of the first groups (their order is random) that together have `size` documents."""
    counts = frame["group"].value_counts(sort=False)  # in order of appearance
    needed = (counts.cumsum() < size).sum() + 1
    return frame.index[frame["group"].isin(counts.index[:needed])]


def _latest(frame: pd.DataFrame, size: int) -> pd.Index:
    """Rows of the latest dates that together have `size` documents, the latest first."""
    latest = frame["date"].sort_values(ascending=False, kind="stable")
    return latest.index[latest >= latest.iloc[min(size, len(latest)) - 1]]


def _iteratively_stratified(
    frame: pd.DataFrame, size: int, generator: np.random.Generator
) -> pd.Index:
    """`size` rows in which every label keeps its share, by iterative stratification.

    Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011.
    The library's sample has a few documents too many or too few; a random choice corrects that.
    """
    if size >= len(frame):
        return frame.index
    counts = frame["labels"].explode().value_counts()
    space = LabelSpace(tuple(counts.index[:MAX_STRATIFIED_LABELS]))
    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1,
        train_size=len(frame) - size,
        test_size=size,
        random_state=int(generator.integers(2**31)),
    )
    multi_hot = space.encode(frame["labels"])
    empty = (frame["labels"].str.len() == 0).to_numpy()
    if empty.any():  # empty sets keep their share too
        multi_hot = np.column_stack([multi_hot, empty])
    if multi_hot.shape[1] == 1:  # the splitter takes no table of one column
        multi_hot = np.pad(multi_hot, ((0, 0), (0, 1)))
    rest, drawn = next(splitter.split(multi_hot, multi_hot.astype(int)))
    drawn = generator.permutation(drawn)[:size]
    missing = generator.permutation(rest)[: size - len(drawn)]
    return frame.index[np.sort(np.concatenate([drawn, missing]))]


def _stratified(frame: pd.DataFrame, size: int, *, at_least: int) -> pd.Index:
    """The first rows of each class in proportion (largest remainder), `at_least` of each.

    `size` rows in all.
    """
    strata = frame["labels"].str[0]
    counts = strata.value_counts().sort_index()
    exact = counts * size / max(len(frame), 1)
    quota = np.minimum(np.maximum(np.floor(exact), at_least), counts).astype(int)
    by_remainder = (exact - quota).sort_values(ascending=False, kind="stable").index
    while quota.sum() != size:  # floors fall short; the minimum of rare classes can overshoot
        step = 1 if quota.sum() < size else -1
        for label in by_remainder if step > 0 else by_remainder[::-1]:
            if at_least <= quota[label] + step <= counts[label] and quota.sum() != size:
                quota[label] += step
    rank = strata.groupby(strata).cumcount()
    return frame.index[rank < strata.map(quota)]
