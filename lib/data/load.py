"""Labelled documents as the study uses them: read, labelled, split, and cut into batches."""

from collections.abc import Sequence

import pandas as pd
from datasets import Dataset, DatasetDict

from lib.data.documents import build_documents, column_and_words, columns_of_crosses
from lib.data.labels import apply_min_support, check_spelling
from lib.data.sampling import nested_sample, sample_splits
from lib.data.tables import SPLITS, WHOLE, read_parts
from lib.data.wipo.read import read_wipo_alpha
from lib.errors import DataError


def load_splits(
    dataset: str,
    *,
    text_columns: Sequence[str],
    label_column: str = "",
    text_template: str = "",
    indicator_columns: Sequence[str] = (),
    label_delimiter: str = "",
    label_mode: str = "single",
    label_level: str = "",
    split_names: Sequence[str] = ("train", "", "test"),
    split_column: str = "",
    dataset_revision: str = "main",
    id_column: str = "",
    group_column: str = "",
    date_column: str = "",
    num_train: int = 0,
    num_validation: int,
    num_test: int = 0,
    min_support: int = 1,
    rare_labels: str = "keep",
    seed: int = 0,
    allow_unseen_labels: bool = False,
) -> DatasetDict:
    """Train, validation and test documents with the columns `id`, `text` and `labels`.

    Parameters
    ----------
    dataset
        One of: a file, or with `{split}` a file for each split (CSV, TSV, Orange's `.tab`, JSON
        Lines, Parquet, by the ending), relative to the project's root; the same out of a Python
        package, `package:<python package>/<file>`; a hub data set, `owner/name` or
        `owner/name/config`, or a local folder in its form; `wipo:<folder or zip>`, the WIPO-Alpha
        collection (`lib.data.wipo.read`).
    split_names
        What the data call train, validation and test, in place of `{split}`, in `split_column` or
        on the hub. "" for a split that they do not have: it is cut from train. A single file
        without `split_column` is split here altogether.
    text_columns, text_template
        Columns of the text; "description:300" is the first 300 words of a column. Joined by ". ",
        or set into a template such as "{title}\\n{description}".
    label_column, label_delimiter, indicator_columns
        Where labels stand: a column with one label, a list, or labels joined by a delimiter; or,
        instead, several columns that hold 0 or 1, each named for a label.
    label_mode
        "single": exactly one label a document. "first": the first of several, such as a patent's
        main code. "multi": all of them.
    label_level
        Cut IPC codes to "section", "class", "subclass" or "main_group".
    id_column, group_column, date_column
        Columns with a unique id, with what must not be split up (such as a patent family), and with
        what orders documents in time. Groups and dates decide what is cut from train: whole groups,
        or the latest dates, whole; otherwise the cut is stratified. `group` is kept as a column.
    num_train, num_validation, num_test
        Documents to keep, sampled by label; 0 for all. What is cut from train needs a number.
        Where one label a document decides the cut, train keeps at least one of each class.
    min_support, rare_labels
        What becomes of labels with fewer training documents (before sampling): see
        `lib.data.labels.apply_min_support`.
    seed
        Of the sampling alone; every arm and seed of a study sees the same documents.
    allow_unseen_labels
        Accept held-out documents with a label that no training document has (it cannot be got
        right); with many labels and few training documents there are some.

    Returns
    -------
    DatasetDict
        `id` str, unique ("train-17": the row of train, from 1, unless there is an id column);
        `text` str; `labels` list[str], in alphabetical order.

    Raises
    ------
    DataError
        One line that names the file and the column or row at fault.
    """
    if dataset.startswith("wipo:"):
        tables = _read_wipo(dataset, text_columns, label_level)
        label_column, label_delimiter, id_column = "labels", "", "id"
    else:
        tables = read_parts(
            dataset, split_names=split_names, split_column=split_column, revision=dataset_revision
        )
    crosses = columns_of_crosses([table for _, table in tables.values()], indicator_columns)
    parts = {
        part: build_documents(
            table, source, part,
            text_columns=text_columns, text_template=text_template,
            label_column=label_column, indicator_columns=indicator_columns, crosses=crosses,
            label_delimiter=label_delimiter, label_mode=label_mode, label_level=label_level,
            id_column=id_column, group_column=group_column, date_column=date_column,
        )
        for part, (source, table) in tables.items()
    }  # fmt: skip
    _check_parts(parts, dataset)
    pool = WHOLE if WHOLE in parts else "train"
    parts = apply_min_support(parts, train=pool, min_support=min_support, rare_labels=rare_labels)
    sampled = sample_splits(
        parts,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        multi_label=label_mode == "multi",
        seed=seed,
        source=dataset,
    )
    _check_classes(sampled, dataset, allow_unseen_labels)
    columns = ["id", "text", "labels"] + ["group"] * bool(group_column)
    return DatasetDict(
        {name: Dataset.from_dict(sampled[name][columns].to_dict(orient="list")) for name in SPLITS}
    )


def take_train(splits: DatasetDict, size: int, *, multi_label: bool, seed: int) -> DatasetDict:
    """The same splits with a stratified sample of `size` training documents; 0 for all of them.

    The samples of one seed are nested (see `data.sampling.nested_sample`). Labels of the study are
    to be read from the splits before, so that all sizes share them.

    Raises
    ------
    DataError
        There are fewer training documents.
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


def _read_wipo(
    dataset: str, text_columns: Sequence[str], level: str
) -> dict[str, tuple[str, pd.DataFrame]]:
    columns = dict(column_and_words(entry) for entry in text_columns)
    splits = read_wipo_alpha(
        dataset.removeprefix("wipo:"),
        level=level,
        fields=tuple(columns),
        **({"description_words": columns["description"]} if columns.get("description") else {}),
    )
    return {name: (dataset, split.to_pandas()) for name, split in splits.items()}


def _check_parts(parts: dict[str, pd.DataFrame], source: str) -> None:
    """What no part shows alone: ids that repeat, labels that are spelled in two ways."""
    documents = pd.concat(parts.values(), ignore_index=True)
    repeats = documents["id"][documents["id"].duplicated()]
    if len(repeats):
        name = repeats.iloc[0]
        several = documents["labels"][documents["id"] == name]
        conflict = several.iloc[0] != several.iloc[1]
        other = f" with labels {several.iloc[0]} and {several.iloc[1]}" if conflict else ""
        raise DataError(f"{source}: id {name!r} stands twice{other}; every document needs its own")
    check_spelling(sorted({x for labels in documents["labels"] for x in labels}), source)


def _check_classes(splits: dict[str, pd.DataFrame], source: str, allow_unseen: bool) -> None:
    """Whether there is anything to learn, and whether train has what will be asked for."""
    seen = {label for labels in splits["train"]["labels"] for label in labels}
    empty = any(len(labels) == 0 for labels in splits["train"]["labels"])  # of label sets alone
    if len(seen) + empty < 2 or not seen:
        raise DataError(
            f"{source}: train has one class only: {seen or 'the empty set'}; there is nothing to "
            "tell apart"
        )
    for name in ("validation", "test"):
        documents = splits[name]
        unseen = documents[[not seen.issuperset(labels) for labels in documents["labels"]]]
        if len(unseen) and not allow_unseen:
            missing = sorted(set(unseen["labels"].iloc[0]) - seen)
            raise DataError(
                f"{source}: {unseen['id'].iloc[0]}: label {missing} is in {name} but not in train "
                f"({len(unseen)} such documents); set allow_unseen_labels to count them as errors"
            )
