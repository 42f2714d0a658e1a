"""Search over an arm's parameters: every candidate starts, the weaker half stops early.

    candidate 1  |--epoch 1--|
    candidate 2  |--epoch 1--|--epoch 2--|--epoch 3--|   chosen
    candidate 3  |--epoch 1--|
    candidate 4  |--epoch 1--|--epoch 2--|

Successive halving (Jamieson and Talwalkar, arXiv 1502.07943) on validation, with the learning rate
of each candidate's whole schedule. Test is not read.
"""

import copy
import gc
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers.trainer import TRAINER_STATE_NAME

from lib.config.arms import FinetuneParams
from lib.config.search import expand
from lib.errors import NotFiniteError
from lib.machine import Cost, configure_process, meter
from lib.runs.record import CHOSEN
from lib.runs.run import Run
from lib.storage import atomic_path, read_json
from lib.training.checkpoints import last_checkpoint

log = logging.getLogger(__name__)

Fit = Callable[[Run, int], tuple[pd.DataFrame, Any]]


def choose_params(run: Run, fit: Fit) -> tuple[Run, pd.DataFrame]:
    """The run with the parameters that are best on validation, and a table of all tries.

    Without a search in the arm's parameters it is the run as it was. With one, `fit` resumes from
    where the best candidate stopped. A search that was interrupted goes on where it was.

    Parameters
    ----------
    run
        Open, so that it has a folder.
    fit
        `fit(run, stop_epochs)` trains with the run's parameters until so many epochs are over, from
        the last checkpoint in `run.checkpoints` if there is one. It returns the history first
        (`epoch`, `eval_micro_f1`, `train_seconds`, `train_joules`).

    Returns
    -------
    run, tries
        One row per candidate: the values of its parameters, `epochs` that it was trained,
        `micro_f1`, its best on validation, `train_seconds`, and `chosen`. What all candidates but
        the best have cost is the run's cost of "search" and counts as training.
    """
    params: FinetuneParams = run.asked
    if not params.search:
        return run, pd.DataFrame()
    folder = run.checkpoints / "search"
    runs = [_candidate(run, p, folder / str(i)) for i, p in enumerate(params.candidates)]
    tries: dict[int, dict[str, Any]] = {}
    alive, epochs = list(range(len(runs))), params.search_epochs
    while True:
        for i in alive:
            tries[i] = _try(runs[i], fit, epochs)
        alive = sorted(alive, key=lambda i: (-tries[i]["micro_f1"], i))
        # The best of two goes on in `fit`.
        if len(alive) <= 2 or all(epochs >= runs[i].params.num_epochs for i in alive):
            break
        for i in alive[(len(alive) + 1) // 2 :]:
            _remove_checkpoints(runs[i])
        alive, epochs = alive[: (len(alive) + 1) // 2], 2 * epochs
    values = expand(params.search)
    rows = [values[i] | tries[i] | {"chosen": i == alive[0]} for i in sorted(tries)]
    table = pd.DataFrame(rows).drop(columns=["joules", "setup_seconds", "setup_joules"])
    return _chosen(run, runs, alive[0], tries, values[alive[0]]), table


def trained_epochs(params: FinetuneParams) -> int:
    """Epochs that a run trains, those of candidates that are given up among them."""
    if not params.search:
        return params.num_epochs
    alive, epochs = len(params.candidates), params.search_epochs
    total = alive * epochs
    while alive > 2 and epochs < params.num_epochs:
        alive, before = (alive + 1) // 2, epochs
        epochs = min(2 * epochs, params.num_epochs)
        total += alive * (epochs - before)
    return total + params.num_epochs - epochs


def _candidate(run: Run, params: FinetuneParams, folder: Path) -> Run:
    """A run of the same documents with other parameters and checkpoints of its own."""
    candidate = copy.copy(run)
    candidate.params = params.with_min_steps(len(run.splits["train"]))
    candidate.checkpoints, candidate._paid = folder, {}
    return candidate


def _try(run: Run, fit: Fit, epochs: int) -> dict[str, Any]:
    """The best validation score of a candidate after so many epochs, and what they have cost.

    A candidate whose loss is not finite has the score -1 and goes no further.
    """
    epochs = min(epochs, run.params.num_epochs)
    record = run.checkpoints / "tried.json"
    if (tried := _recorded(record)) and tried["epochs"] >= epochs:
        return tried
    configure_process(seed=run.params.seed, num_threads=run.params.threads)
    tried = {"epochs": epochs, "micro_f1": -1.0, "train_seconds": 0.0, "joules": 0.0}
    start = meter(run.device)
    try:
        history = _history(run, epochs)
        history = fit(run, epochs)[0] if history is None else history
    except NotFiniteError as error:
        log.warning("%s; this candidate is given up", error)
        tried |= dict(zip(("train_seconds", "joules"), meter(run.device) - start, strict=True))
    else:
        evaluated = history[history["eval_micro_f1"].notna()]
        at_end = np.isclose(evaluated["epoch"], evaluated["epoch"].round())  # only epochs are kept
        last = evaluated.iloc[-1]
        tried |= {
            "micro_f1": float(evaluated["eval_micro_f1"][at_end].max()),
            "train_seconds": float(last["train_seconds"]),
            "joules": float(last["train_joules"]),
        }
    gc.collect()  # the candidate's model
    setup = run.cost("train")
    tried |= {"setup_seconds": setup.seconds, "setup_joules": setup.joules}
    with atomic_path(record) as path:
        path.write_text(json.dumps(tried), encoding="utf-8")
    return tried


def _recorded(record: Path) -> dict[str, Any] | None:
    """A try that is recorded; None for one that is not, or whose record is damaged."""
    try:
        return read_json(record)
    except FileNotFoundError:
        pass
    except ValueError as error:
        log.warning("%s: damaged (%s); trying the candidate again", record, error)
    return None


def _history(run: Run, epochs: int) -> pd.DataFrame | None:
    """The history of a candidate that was trained so far, before it could be recorded."""
    if not (checkpoint := last_checkpoint(run.checkpoints)):
        return None
    state = read_json(Path(checkpoint) / TRAINER_STATE_NAME)
    evaluated = [row["epoch"] for row in state["log_history"] if "eval_micro_f1" in row]
    return pd.DataFrame(state["log_history"]) if max(evaluated, default=0) >= epochs else None


def _remove_checkpoints(run: Run) -> None:
    """Room on disk: what a candidate that is given up would resume from."""
    for checkpoint in run.checkpoints.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _chosen(
    run: Run, runs: list[Run], best: int, tries: dict[int, dict[str, Any]], values: dict[str, Any]
) -> Run:
    """The run with the best candidate's parameters and checkpoints, and the cost of the others."""
    chosen = copy.copy(run)
    chosen.params, chosen.checkpoints = runs[best].params, runs[best].checkpoints
    others = {i: t for i, t in tries.items() if i != best}
    cost = sum((Cost(t["train_seconds"], t["joules"]) for t in others.values()), Cost())
    # What is computed before training is shared by candidates with the same adapted layers.
    layers = [(candidate.params.depth, candidate.params.lora_layers) for candidate in runs]
    paid = {layers[best]}
    for i, tried in others.items():
        if layers[i] not in paid:
            paid.add(layers[i])
            cost += Cost(tried["setup_seconds"], tried["setup_joules"])
    chosen.pay("search", "others", cost)
    with atomic_path(run.folder / CHOSEN) as path:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    configure_process(seed=run.params.seed, num_threads=run.params.threads)
    return chosen
