"""Checkpoints of a training: the last one and the best, each with a manifest of checksums."""

import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lib.storage import find_fault, read_json, write_checksums

log = logging.getLogger(__name__)


class KeepWhole(TrainerCallback):
    """Manifests for checkpoints, and the removal of all but the last and the best.

    A checkpoint gets its manifest once all its other files are written, and only then are older
    ones removed. Without a manifest it counts as damaged (`last_checkpoint`). The best one is
    looked up in the folder of the others, so that a run's folder can be moved.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Point to the best checkpoint of this folder."""
        if state.best_global_step:
            best = checkpoint_at(args.output_dir, state.best_global_step)
            state.best_model_checkpoint = str(best)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the manifest of this step's checkpoint and remove those that nothing needs."""
        last = checkpoint_at(args.output_dir, state.global_step)
        write_checksums(last, {file.name: file for file in sorted(last.iterdir())})
        keep = {state.global_step, state.best_global_step}
        for step, folder in checkpoints_of(Path(args.output_dir)):
            if step not in keep:
                shutil.rmtree(folder, ignore_errors=True)


def checkpoint_at(folder: str | Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoints_of(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all checkpoints, the last step first; times of files do not matter."""
    found = [(path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"), path) for path in
             folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]  # fmt: skip
    return sorted(((int(step), path) for step, path in found if step.isdecimal()), reverse=True)


def last_checkpoint(folder: Path) -> str | None:
    """Folder of the last whole checkpoint, or None; damaged ones are logged and removed.

    A checkpoint is whole if its files are as its manifest says, and if the same is true of the best
    checkpoint up to it, which a resumed run still needs.
    """
    for _, checkpoint in checkpoints_of(folder):
        fault = find_fault(checkpoint)
        if not fault:
            best = read_json(checkpoint / TRAINER_STATE_NAME).get("best_global_step")
            fault = find_fault(checkpoint_at(folder, best)) if best else ""
        if not fault:
            return str(checkpoint)
        log.warning("%s: %s; training goes on from the checkpoint before it, if there is one",
                    checkpoint, fault)  # fmt: skip
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None
