"""Search over an arm's parameters: every candidate starts, the weaker half stops early.

    candidate 1  |--epoch 1--|
    candidate 2  |--epoch 1--|--epoch 2--|--epoch 3--|   chosen
    candidate 3  |--epoch 1--|
    candidate 4  |--epoch 1--|--epoch 2--|

Successive halving (Jamieson and Talwalkar, arXiv 1502.07943) on validation. The learning rate of a
candidate follows its whole schedule, also where the candidate stops early. Test is not read.
"""

import copy
import gc
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers.trainer import TRAINER_STATE_NAME

from lib.config.arms import FinetuneParams
from lib.config.groups import HeadParams, LoraParams, TrainParams
from lib.config.search import expand
from lib.errors import NotFiniteError
from lib.machine import NO_COST, Cost, configure_process, meter
from lib.runs.record import CHOSEN
from lib.runs.run import Run
from lib.storage import read_json, write_json
from lib.training.checkpoints import checkpoints_of, last_checkpoint

log = logging.getLogger(__name__)

Fit = Callable[[Run, int], tuple[pd.DataFrame, Any]]


def choose_params(run: Run, fit: Fit) -> tuple[Run, pd.DataFrame]:
    """The run with the parameters that are best on validation, and a table of all tries.

    Without `search` in the arm's parameters, it is the run as it was, and the table is empty. After
    a search, `fit` with the returned run resumes from the best candidate's last checkpoint. An
    interrupted search goes on from the records and checkpoints of its candidates. The run that it
    has returned is returned as it is.

    Parameters
    ----------
    fit
        `fit(run, stop_epochs)` trains with the run's parameters until so many epochs are over, from
        the last checkpoint in `run.checkpoints` if there is one. The first value that it returns is
        the history (`epoch`, `eval_micro_f1`, `train_seconds`, `train_joules`).

    Returns
    -------
    run, tries
        `tries` has one row per candidate: values of its parameters, `epochs` trained, `micro_f1`
        (its best on validation, -1 if it diverged), `train_seconds`, and `chosen`. The cost of all
        other candidates is the returned run's `cost("search")`.
    """
    params: FinetuneParams = run.asked
    if run.tries is not None:  # the notebook's cell runs again
        return run, run.tries
    if not params.search:
        return run, pd.DataFrame()
    folder = run.checkpoints / "search"
    runs = [_candidate(run, p, folder / str(i)) for i, p in enumerate(params.candidates)]
    tries: dict[int, dict[str, Any]] = {}
    alive, epochs = list(range(len(runs))), params.search_epochs
    while True:
        for i in alive:
            tries[i] = _try(runs[i], fit, epochs)
        ranked = sorted(alive, key=lambda i: (-tries[i]["micro_f1"], i))
        # Without those that diverged (-1), unless all did: `fit` then raises the error again.
        alive = [i for i in ranked if tries[i]["micro_f1"] >= 0] or ranked[:1]
        # The better of two is trained to its end by the caller's `fit`.
        if len(alive) <= 2 or all(epochs >= runs[i].params.num_epochs for i in alive):
            break
        alive, epochs = alive[: (len(ranked) + 1) // 2], 2 * epochs
        for i in set(ranked) - set(alive):  # candidates that are given up need no checkpoint
            for _, checkpoint in checkpoints_of(runs[i].checkpoints):
                shutil.rmtree(checkpoint)
    values = expand(params.search)
    rows = [values[i] | tries[i] | {"chosen": i == alive[0]} for i in sorted(tries)]
    table = pd.DataFrame(rows).drop(columns=["joules", "setup_seconds", "setup_joules"])
    chosen = _chosen(run, runs, alive[0], tries, values[alive[0]])
    chosen.tries = table
    return chosen, table


def trained_epochs(params: FinetuneParams) -> int:
    """Epochs that a run trains, with those of candidates that are given up."""
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
    """A candidate's best validation score after so many epochs (-1: diverged), and its cost."""
    epochs = min(epochs, run.params.num_epochs)
    record = run.checkpoints / "tried.json"
    tried = _recorded(record)
    scores, spent = tried["scores"], Cost(tried["train_seconds"], tried["joules"])
    if str(epochs) not in scores:
        configure_process(seed=run.params.seed, num_threads=run.params.threads)
        start = meter(run.device)
        try:
            history = _history(run, epochs)
            if history is None:
                history = fit(run, epochs)[0]
            else:
                log.warning("%s: trained by an earlier process; what that computed before training "
                            "counts only if another knows it", run.checkpoints)  # fmt: skip
        except NotFiniteError as error:
            log.warning("%s; this candidate is given up", error)
            scores[str(epochs)], spent = -1.0, spent + (meter(run.device) - start)
        else:
            evaluated = history[history["eval_micro_f1"].notna()]
            epoch = evaluated["epoch"]
            # Only the end of an epoch can be the best model: scores between epochs choose nothing.
            kept = np.isclose(epoch, epoch.round()) & (epoch < epochs + 0.5)
            scores[str(epochs)] = float(evaluated.loc[kept, "eval_micro_f1"].max())
            spent = Cost(*map(float, evaluated.iloc[-1][["train_seconds", "train_joules"]]))
        gc.collect()  # frees the candidate's model before the next one is loaded
        setup = run.cost("train")
        tried |= {"train_seconds": spent.seconds, "joules": spent.joules}
        tried |= {"setup_seconds": setup.seconds, "setup_joules": setup.joules}
        write_json(record, tried)
    costs = {name: value for name, value in tried.items() if name != "scores"}
    return {"epochs": epochs, "micro_f1": scores[str(epochs)]} | costs


def _recorded(record: Path) -> dict[str, Any]:
    """A candidate's `scores` by number of epochs and its cost; empty without a sound record."""
    try:
        tried = read_json(record)
        if set(tried) >= {"scores", "train_seconds", "joules", "setup_seconds", "setup_joules"}:
            return tried
        log.warning("%s: incomplete; trying the candidate again", record)
    except FileNotFoundError:
        pass
    except (TypeError, ValueError) as error:
        log.warning("%s: damaged (%s); trying the candidate again", record, error)
    return {"scores": {}, "train_seconds": 0.0, "joules": 0.0}


def _history(run: Run, epochs: int) -> pd.DataFrame | None:
    """The history of a candidate with a checkpoint after so many epochs; None without one.

    It is there if the process ended before it could record the candidate.
    """
    if not (checkpoint := last_checkpoint(run.checkpoints)):
        return None
    state = read_json(Path(checkpoint) / TRAINER_STATE_NAME)
    evaluated = [row["epoch"] for row in state["log_history"] if "eval_micro_f1" in row]
    return pd.DataFrame(state["log_history"]) if max(evaluated, default=0) >= epochs else None


def _before_training(params: FinetuneParams) -> dict[str, Any]:
    """The values that decide what is computed before training, such as states of lower layers."""
    learnt = {*TrainParams.model_fields, *HeadParams.model_fields, *LoraParams.model_fields}
    learnt -= {"lora_layers", "bidirectional"}
    return {name: value for name, value in params.model_dump().items() if name not in learnt}


def _chosen(
    run: Run, runs: list[Run], best: int, tries: dict[int, dict[str, Any]], values: dict[str, Any]
) -> Run:
    """The run with the best candidate's parameters and checkpoints, and the cost of the others."""
    chosen = copy.copy(run)
    chosen.params, chosen.checkpoints = runs[best].params, runs[best].checkpoints
    others = {i: t for i, t in tries.items() if i != best}
    cost = sum((Cost(t["train_seconds"], t["joules"]) for t in others.values()), NO_COST)
    # What is computed before training is shared by candidates that differ in training alone.
    setups = [_before_training(candidate.params) for candidate in runs]
    paid = [setups[best]]
    # First those that know it, because the process that trained them has recorded them.
    for i, tried in sorted(others.items(), key=lambda item: not item[1]["setup_seconds"]):
        if setups[i] not in paid:
            paid.append(setups[i])
            cost += Cost(tried["setup_seconds"], tried["setup_joules"])
    chosen.pay("search", "others", cost)
    write_json(run.folder / CHOSEN, values)
    configure_process(seed=run.params.seed, num_threads=run.params.threads)
    return chosen
