"""Files of finished runs, read back after checks of their content and of the folder they are in."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pandas as pd

from lib.config.strict_yaml import read_yaml
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.runs.record import CHOSEN, FILES, OPTIONAL_RESOURCES, SOME_FILES, model_files
from lib.storage import CHECKSUMS, ROOT, find_fault, read_json

SEED = re.compile(r"seed-(0|[1-9][0-9]*)")
# Parameters that name a run's folder, with their values in runs of versions without them.
PLACE = {"study": "", "arm": "", "train_size": 0, "seed": 0}


def require_whole(folder: Path, *, model: bool = True) -> None:
    """Raise `InputError` unless a folder holds a finished run as it was written.

    `metrics.json`, which is written last, and the manifest of checksums decide. Without `model`,
    files of the saved model are not checked.
    """
    if not (folder / "metrics.json").exists():
        inside = sorted([*folder.glob("*/metrics.json"), *folder.glob("*/*/metrics.json")])
        remedy = f"; name a run in it, such as {inside[0].parent}" if inside else ""
        raise InputError(f"{folder}: holds no finished run (no metrics.json){remedy}")
    if not (folder / CHECKSUMS).exists():
        raise InputError(
            f"{folder}: an earlier version wrote this run (no {CHECKSUMS}); run the arm again"
        )
    missing = [f"{name} is missing" for name in FILES if not (folder / name).is_file()]
    fault = missing[0] if missing else find_fault(folder, (*FILES, *SOME_FILES))
    if not fault and model:  # recorded files first, then files that were added since
        fault = find_fault(folder) or find_fault(folder, model_files(folder))
    if fault:
        since = " the run" if fault.endswith("since") else ""
        raise InputError(f"{folder}: {fault}{since}; run the arm again")


def read_runs(
    study: str,
    *,
    runs_dir: str = "runs",
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Finished runs of a study: `arm seed folder params`, every metric and every resource.

    They are those of `arms` and `seeds`, or all that are found where these are empty.

    Raises
    ------
    InputError
        The study has no finished run; a run is not whole (`require_whole`) or was copied here from
        another folder; or runs do not share labels and held-out documents or, with the same
        `train_size` and seed, training documents.
    """
    rows, held_out, trained = [], {}, {}
    for file in sorted((ROOT / runs_dir / study).glob("*/seed-*/metrics.json")):
        folder, arm = file.parent, file.parents[1].name
        if not SEED.fullmatch(folder.name):
            continue  # a copy that somebody keeps
        seed = int(folder.name.removeprefix("seed-"))
        if (arms and arm not in arms) or (seeds and seed not in seeds):
            continue
        rows.append({"arm": arm, "seed": seed, "folder": folder} | _read_run(folder))
        # One run of each kind of what all have to share: a second kind is an error.
        params, labels = rows[-1]["params"], (folder / "labels.json").read_text()
        ids = tuple(read_predictions(folder, columns=["id"])["id"])
        held_out.setdefault((params.get("held_out_fingerprint"), ids, labels), folder)
        size = params.get("train_size", 0)
        sample = trained.setdefault((size, seed if size else None), {})
        sample.setdefault(params.get("data_fingerprint"), folder)
    if not rows:
        raise InputError(
            f"{ROOT / runs_dir / study}: no finished run; run `make study STUDY={study}`"
        )
    for inputs in (held_out, *trained.values()):
        if len(inputs) > 1:
            a, b = list(inputs.values())[:2]
            raise InputError(f"{a} and {b} have other documents or labels; run them again")
    return pd.DataFrame(rows)


def _read_run(folder: Path) -> dict[str, Any]:
    """Parameters, metrics and resources of one run; `InputError` if its folder is another's."""
    require_whole(folder, model=False)
    params = read_params(folder)
    study, arm, size, seed = (params.get(name, default) for name, default in PLACE.items())
    names = str(study), f"{arm}@{size}" if size else str(arm), f"seed-{seed}"
    if names != folder.parts[-3:]:
        raise InputError(
            f"{folder}: holds the run {'/'.join(names)}, copied or moved here; move it back or run "
            "this arm again"
        )
    metrics, resources = (read_values(folder / f"{x}.json") for x in ("metrics", "resources"))
    return {"params": params} | dict.fromkeys(OPTIONAL_RESOURCES) | metrics | resources


def read_params(folder: Path) -> dict[str, Any]:
    """Values of `params.yaml` by name, with the values that a search has found, if any."""
    values = read_yaml(folder / "params.yaml")
    found = folder / CHOSEN
    return values | (read_values(found) if found.exists() else {})


def read_threshold(folder: Path) -> float | None:
    """Least score at which a run gives a label; None if it uses no threshold."""
    values = read_values(folder / "metrics.json", float | int | None)
    if "threshold" not in values:
        raise InputError(f"{folder}: metrics.json has no threshold; run the arm again")
    return values["threshold"]


def read_values(file: Path, kinds: type | UnionType = object) -> dict[str, Any]:
    """Values by name of a JSON file of a run; `InputError` unless all are of type `kinds`."""
    try:
        values = read_json(file)
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict) or not all(isinstance(x, kinds) for x in values.values()):
        raise InputError(f"{file}: is not as a run writes it; run the arm again")
    return values


def read_predictions(
    folder: Path, split: str | None = "test", *, columns: Sequence[str] = ()
) -> pd.DataFrame:
    """Columns `id split y_true y_pred scores`, a row per document, in the order of the documents.

    Rows are those of `split`, or of validation and test if it is None. Two columns are there at
    times: `group`, if the study has a `group_column`, and `score_labels`, if only the best scores
    were kept (`lib.evaluation.scores`). With `columns`, only these and `split` are read.
    """
    wanted = ["split", *columns] if columns else None
    table = pd.read_parquet(folder / "predictions.parquet", columns=wanted)
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def read_label_space(folder: Path) -> LabelSpace:
    """The label space of a run, from `labels.json`; there, "" has the text of an empty set."""
    labels = read_values(folder / "labels.json", str)
    none = labels.pop("", "")
    return LabelSpace(tuple(labels), tuple(labels.values()), none)


def read_train_counts(folder: Path) -> np.ndarray:
    """Training documents per label of a run, (C,) int64, in label order."""
    return np.array(list(read_values(folder / "train_counts.json", int).values()))
