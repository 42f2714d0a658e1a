"""Labelled documents as the study uses them: read, labelled and split."""

import pandas as pd
from datasets import Dataset, DatasetDict

from lib.config.data import DataParams
from lib.data.documents import build_documents, words_by_column
from lib.data.indicators import blank_means_no
from lib.data.labels import apply_min_support, check_spelling
from lib.data.sampling import nested_sample, sample_splits
from lib.data.tables import SPLITS, UNSPLIT, read_parts
from lib.data.wipo.read import read_wipo_alpha
from lib.errors import DataError

WIPO = "wipo:"  # begins the name of a WIPO-Alpha collection


def load_splits(params: DataParams) -> DatasetDict:
    """Train, validation and test documents with the columns `id`, `text` and `labels`.

    `dataset` is one of:

    - a file, or with `{split}` one file per split (CSV, TSV, Orange's `.tab`, JSON Lines, Parquet,
      by the ending), relative to the project's root;
    - the same in a Python package: `package:<python package>/<file>`;
    - a hub data set, `owner/name` or `owner/name/config`, or a local folder in its form;
    - the WIPO-Alpha collection: `wipo:<folder or zip>` (`lib.data.wipo`).

    Returns
    -------
    DatasetDict
        `id` str, unique: that of the id column, or else the split and the row in its file, from 1
        ("train-17"; "document-17" of a file without splits). `text` str. `labels` list[str], in
        alphabetical order. `group` str, if there is a group column.

    Raises
    ------
    DataError
        One line that names the file and the column or row at fault.
    ParamsError
        The WIPO-Alpha collection is read without `label_level`, or its descriptions without a
        number of words.
    """
    # Read one table per split that the data set has.
    if params.dataset.startswith(WIPO):  # its reader has columns of its own
        tables = _read_wipo(params)
        columns = {"label_column": "labels", "label_delimiter": "", "id_column": "id"}
        params = params.model_copy(update=columns)
    else:
        tables = read_parts(params)

    # Make documents of rows.
    blank_is_no = blank_means_no([table for _, table in tables.values()], params.indicator_columns)
    parts = {
        part: build_documents(table, source, part, params, blank_is_no)
        for part, (source, table) in tables.items()
    }
    _check_parts(parts, params.dataset)

    # Settle rare labels, then cut and sample the splits.
    parts = apply_min_support(
        parts,
        train=UNSPLIT if UNSPLIT in parts else "train",
        min_support=params.min_support,
        rare_labels=params.rare_labels,
    )
    sampled = sample_splits(parts, params)
    _check_classes(sampled, params.dataset, params.allow_unseen_labels)
    columns = ["id", "text", "labels", *(["group"] if params.group_column else [])]
    return DatasetDict(
        {name: Dataset.from_dict(sampled[name][columns].to_dict(orient="list")) for name in SPLITS}
    )


def take_train(splits: DatasetDict, size: int, *, multi_label: bool, seed: int) -> DatasetDict:
    """The same splits with a stratified sample (`nested_sample`) of `size` training documents.

    A `size` of 0 keeps all of them. Take the study's labels (`LabelSpace`) from `splits` rather
    than from the result, so that all sizes share them.

    Raises
    ------
    DataError
        `size` is larger than the number of training documents.
    """
    train = splits["train"]
    if size > len(train):
        raise DataError(
            f"train_size: {size} of {len(train)} training documents; lower the size in train_sizes "
            "or raise num_train"
        )
    if not size:
        return splits
    drawn = nested_sample(train["labels"], size, multi_label=multi_label, seed=seed)
    return DatasetDict(splits | {"train": train.select(drawn)})


def _read_wipo(params: DataParams) -> dict[str, tuple[str, pd.DataFrame]]:
    columns = words_by_column(params.text_columns, params.dataset)
    splits = read_wipo_alpha(
        params.dataset.removeprefix(WIPO),
        level=params.label_level,
        fields=tuple(columns),
        description_words=columns.get("description") or 0,
    )
    return {name: (params.dataset, split.to_pandas()) for name, split in splits.items()}


def _check_parts(parts: dict[str, pd.DataFrame], source: str) -> None:
    """Raise `DataError` for ids that repeat and labels that are spelled in two ways."""
    documents = pd.concat(parts.values(), ignore_index=True)
    repeats = documents["id"][documents["id"].duplicated()]
    if len(repeats):
        name = repeats.iloc[0]
        several = documents["labels"][documents["id"] == name]
        conflict = several.iloc[0] != several.iloc[1]
        other = f" with labels {several.iloc[0]} and {several.iloc[1]}" if conflict else ""
        raise DataError(f"{source}: id {name!r} appears twice{other}; every document needs its own")
    check_spelling(sorted({x for labels in documents["labels"] for x in labels}), source)


def _check_classes(splits: dict[str, pd.DataFrame], source: str, allow_unseen: bool) -> None:
    """Raise `DataError` unless train has two classes and every label of the other splits."""
    seen = {label for labels in splits["train"]["labels"] for label in labels}
    empty = any(len(labels) == 0 for labels in splits["train"]["labels"])  # an empty set is a class
    if len(seen) + empty < 2 or not seen:
        only = seen or "the empty set"
        raise DataError(f"{source}: train has one class only: {only}; there is nothing to learn")
    for name in ("validation", "test"):
        documents = splits[name]
        if not documents["labels"].str.len().any():
            raise DataError(
                f"{source}: none of the {len(documents)} documents of {name} has a label; raise "
                f"num_{name}"
            )
        unseen = documents[[not seen.issuperset(labels) for labels in documents["labels"]]]
        if len(unseen) and not allow_unseen:
            missing = sorted(set(unseen["labels"].iloc[0]) - seen)
            raise DataError(
                f"{source}: {unseen['id'].iloc[0]}: label {missing} is in {name} but not in train "
                f"({len(unseen)} such documents); set allow_unseen_labels to count them as errors"
            )
