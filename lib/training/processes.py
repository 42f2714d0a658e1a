"""Processes that share each optimizer step, one per GPU: documents are dealt out, gradients summed.

```
the notebook   fit(run) -> starts processes, waits ............ fit(run) resumes, at the end
  process 1        fit(run): its share of each step's documents |   evaluates, saves, logs
  process 2        fit(run): its share of the same documents    |   waits, and is told
```

The loop is that of one process (`lib.training.trainer`): transformers and accelerate are not told
of the others. All that processes share is in `lib.training.sharing`.
"""

import functools
import gc
import logging
import os
import pickle  # between our own processes alone  # nosec B403
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from lib.errors import InputError, ModelError, ParamsError
from lib.machine import configure_process, memory_of, peak_memory_gib
from lib.model.memory import USABLE
from lib.stopping import PATIENCE, STOPPED, Stopped, StopRequest, noting_signals, stop_on_sigterm
from lib.storage import atomic_path
from lib.training.sharing import random_state, set_random_state

Fit = Callable[..., Any]
Outcome = tuple[BaseException | None, float, float]  # error, peak in GiB and time of the end

# Longest wait of one process for another, such as during an evaluation. It may be long, because the
# notebook's process sees if one has ended (our choice).
WAITING = timedelta(days=30)
START = (
    "from lib.stopping import die_with_parent; die_with_parent(); "
    "from lib.training.processes import _work; _work()"
)


def require_devices(num_processes: int, device: torch.device, num_threads: int) -> None:
    """Raise `ParamsError` for more processes than GPUs or, on a CPU, than threads."""
    on_gpus = device.type == "cuda"
    available = torch.cuda.device_count() if on_gpus else num_threads
    if num_processes > available:
        what = "GPUs" if on_gpus else "CPU threads (see num_threads)"
        raise ParamsError(
            f"num_processes: {num_processes} are more than the {available} {what} here; lower it"
        )


def in_processes(fit: Fit) -> Fit:
    """`fit(run, stop_epochs)` that trains in `num_processes` processes, if there are several.

    They leave checkpoints, from which `fit` itself then resumes in this process, with nothing left
    to train. Their peak memory in GiB, the largest of GPUs or the sum on a CPU, goes to
    `run.peaks`.

    Raises `ModelError` if a process was killed and `Stopped` if the run was asked to stop. Any
    other error is that of the first process that failed: an `InputError` as it is, others as a
    `RuntimeError`.
    """

    @functools.wraps(fit)
    def shared(run: Any, stop_epochs: int = 0) -> Any:
        if run.params.num_processes > 1 and run.params.num_epochs:
            peaks = _train(fit, run, stop_epochs)
            run.peaks.append(max(peaks) if run.device.type == "cuda" else sum(peaks))
        return fit(run, stop_epochs)

    return shared


class _Pickler(cloudpickle.Pickler):
    """Pickler of functions of a notebook; one with `lru_cache` arrives with an empty cache."""

    def reducer_override(self, obj: Any) -> Any:
        """Function and arguments that make an object again."""
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__ == "__main__":
            return _with_cache, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


def _with_cache(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    return functools.lru_cache(**options)(function)


def _train(fit: Fit, run: Any, stop_epochs: int) -> list[float]:
    """Peak memory in GiB of each process, after training in all of them until they have ended."""
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()  # the first process needs the memory of the same GPU
    with tempfile.TemporaryDirectory(prefix="processes-") as name, noting_signals() as stop:
        folder = Path(name)
        with (folder / "task").open("wb") as file:
            _Pickler(file).dump((fit, run, stop_epochs, random_state(run.device)))
        started = [_start(folder, i, run) for i in range(run.params.num_processes)]
        (folder / "task").unlink()  # they have it open; nothing is left if this process is killed
        try:
            left = _wait(started, stop)
        finally:
            for process in started:
                process.kill()
                process.wait()
        outcomes = [_outcome(folder / f"{i}.pickle") for i in range(len(started))]
        _raise_failure(started, outcomes, left, stop)
    return [peak for _, peak, _ in outcomes]


def _start(folder: Path, index: int, run: Any) -> subprocess.Popen:
    environment = {"GLOO_SOCKET_IFNAME": "lo"} if os.uname().sysname == "Linux" else {}
    environment |= os.environ
    if run.device.type == "cuda":  # each process sees its own GPU alone
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index]
    command = [sys.executable, "-c", START, str(folder), str(index)]
    # In a session of its own: a signal for the notebook's group reaches it once, from `_wait`.
    with (folder / "task").open("rb") as task:
        return subprocess.Popen(command, env=environment, stdin=task, start_new_session=True)


def _wait(started: Sequence[subprocess.Popen], stop: StopRequest) -> list[int]:
    """Indices of processes that still run `PATIENCE` seconds after one has failed; else [].

    A request to stop is passed on to all processes, once.
    """
    told, failed = False, 0.0
    while running := [i for i, process in enumerate(started) if process.poll() is None]:
        if stop.asked and not told:
            for process in started:
                process.terminate()
            told = True
        if not failed and any(process.returncode for process in started):
            failed = time.monotonic()
        if failed and time.monotonic() - failed > PATIENCE:
            return running
        time.sleep(0.05)
    return []


def _outcome(file: Path) -> Outcome | None:
    """The outcome that one of our processes has left, in a folder of this user alone, if any."""
    return pickle.loads(file.read_bytes()) if file.exists() else None  # nosec B301


def _raise_failure(
    started: Sequence[subprocess.Popen],
    outcomes: Sequence[Outcome | None],
    left: Sequence[int],
    stop: StopRequest,
) -> None:
    """Raise the reason why processes have not ended well: one was killed, or what failed first."""
    ended = sorted(filter(None, outcomes), key=lambda outcome: outcome[2])
    errors = [error for error, _, _ in ended if error]
    if stop.asked and (errors or any(p.returncode for p in started)):
        raise next((e for e in errors if isinstance(e, (Stopped, InputError))), Stopped(STOPPED))
    for i, (process, outcome) in enumerate(zip(started, outcomes, strict=True)):
        if outcome is None and i not in left:
            status = process.returncode
            how = f"was killed ({signal.Signals(-status).name})" if status < 0 else "ended"
            raise ModelError(
                f"num_processes: process {i + 1} of {len(started)} (pid {process.pid}) {how}, most "
                "often because memory ran out: see `memory_gib`; run it again to go on"
            )
    if errors:
        raise errors[0]


def _work() -> None:
    """One of the processes: run what the notebook's has sent, and leave how it ended."""
    folder, index = Path(sys.argv[1]), int(sys.argv[2])
    stop_on_sigterm()
    error, peak = None, 0.0
    try:
        fit, run, stop_epochs, state = pickle.load(sys.stdin.buffer)  # of `_train`  # nosec B301
        size = run.params.num_processes
        threads = max(1, run.params.threads // size)
        configure_process(seed=run.params.seed, num_threads=threads)
        if index:  # the first process logs what all would
            logging.getLogger("lib").setLevel(logging.WARNING)
        if run.device.type == "cpu":  # processes share the memory of this machine
            target = (run.params.memory_gib or USABLE * memory_of(run.device)) / size
            run.params = run.params.model_copy(update={"memory_gib": target})
        set_random_state(run.device, state)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if run.device.type == "cuda" else "gloo",
            store=dist.FileStore(str(folder / "store"), size),
            rank=index,
            world_size=size,
            timeout=WAITING,
        )
        fit(run, stop_epochs)
        peak = peak_memory_gib(run.device)
    except (InputError, Stopped) as expected:
        error = expected
    except BaseException as other:
        error = RuntimeError(f"process {index + 1}: {type(other).__name__}: {other}")
        error.add_note(traceback.format_exc())
    with atomic_path(folder / f"{index}.pickle") as path:
        path.write_bytes(pickle.dumps((error, peak, time.time())))
    os._exit(error is not None)  # at once: an orderly end could wait for a process that has ended
