"""Trackers of a training's curves, by transformers' own integrations; none uses a network unasked.

    runs/<study>/<arm>/seed-<n>/tensorboard/              of the run
                                tensorboard/search/3/     of its candidate checkpoints/search/3/

The environment's own settings of a tracker win, such as MLFLOW_TRACKING_URI and WANDB_MODE.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from lib.config.arms import FinetuneParams
from lib.training.sharing import count, is_first


@contextlib.contextmanager
def reporting(params: FinetuneParams, output_dir: str | Path) -> Iterator[list[TrainerCallback]]:
    """Callbacks of the run's trackers (`report_to`), which are closed at the end of the block.

    `output_dir` has checkpoints of the run, or of a candidate of its search. There are no trackers
    if it is outside of the run's folder of checkpoints, beside which logs are kept. If several
    processes train, only the first of them reports; the notebook's, which resumes from their last
    checkpoint, does not.
    """
    trial, checkpoints = Path(output_dir), params.run_dir / "checkpoints"
    reports = is_first() and count() == params.num_processes
    if not params.report_to or not reports or not trial.is_relative_to(checkpoints):
        yield []
        return
    trial = trial.relative_to(checkpoints)
    study = {"MLFLOW_EXPERIMENT_NAME": params.study, "WANDB_PROJECT": params.study}
    with _settings(**study), contextlib.ExitStack() as closing:
        folders = {name: params.run_dir / name / trial for name in params.report_to}
        yield [closing.enter_context(TRACKING[name](folder)) for name, folder in folders.items()]


def run_name(params: FinetuneParams, output_dir: str | Path) -> str:
    """Name of a training in trackers, such as "embedding/seed-0/search/3"."""
    place = os.path.relpath(output_dir, params.run_dir / "checkpoints")
    return os.path.normpath(f"{params.run_dir.parent.name}/{params.run_dir.name}/{place}")


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[TrainerCallback]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        yield TensorBoardCallback(writer)


@contextlib.contextmanager
def _mlflow(folder: Path) -> Iterator[TrainerCallback]:
    folder.mkdir(parents=True, exist_ok=True)
    with _settings(MLFLOW_TRACKING_URI=f"sqlite:///{folder / 'mlflow.db'}"):
        yield MLflowCallback()


@contextlib.contextmanager
def _wandb(folder: Path) -> Iterator[TrainerCallback]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    with _settings(WANDB_DIR=str(folder), WANDB_MODE="offline", WANDB_SILENT="true"):
        try:
            yield WandbCallback()
        finally:  # else the next candidate would go on with this one's curves, and in its folder
            wandb.finish()
            wandb.teardown()


TRACKING = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def _settings(**values: str) -> contextlib.AbstractContextManager:
    """Environment variables for a block; those that are set already keep their values."""
    return patch.dict(os.environ, {k: v for k, v in values.items() if k not in os.environ})
