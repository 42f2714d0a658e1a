"""The machine under a run: device, threads, precision, memory, and counters of time and energy."""

import contextlib
import functools
import logging
import math
import os
import platform
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import threadpoolctl
import torch
import transformers
from transformers import modeling_gguf_pytorch_utils
from zeus.device import get_cpus, get_gpus
from zeus.device.cpu.common import CPUs
from zeus.exception import ZeusBaseError

from lib.errors import ParamsError

GIB = 2**30
BAR_AFTER = 3  # seconds, from which on a bar is shown (our choice)
CGROUP = Path("/sys/fs/cgroup")
CONTAINER_LIMITS = (CGROUP / "memory.max", CGROUP / "memory/memory.limit_in_bytes")  # v2, v1


def choose_device(device: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA if there is one, and otherwise the CPU.

    Raises `ParamsError` if CUDA was asked for and this machine has none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ParamsError('device: "cuda" was asked for, but torch finds no CUDA device here')
    return torch.device(device)


def choose_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """The dtype to compute in; "auto" is bfloat16 if the device has it natively, else float32."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def configure_process(*, seed: int, num_threads: int) -> None:
    """Seed every generator, show the library's log, and keep to `num_threads` CPU threads.

    Two torch processes with one thread per core slow each other down tenfold.
    """
    log = logging.getLogger("lib")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    # Threads: of torch, of NumPy and scikit-learn, of tokenizers and of child processes.
    torch.set_num_threads(num_threads)
    threadpoolctl.threadpool_limits(num_threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    # Seeds.
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def shows_bars() -> bool:
    """True where someone looks on: in a terminal, or a notebook that JupyterLab has opened."""
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


def quieten_transformers() -> None:
    """Let transformers print errors alone, and bars of what takes long only if `shows_bars`."""

    def bar(factory: Callable, args: Sequence, options: Mapping) -> Any:
        shown = {"delay": BAR_AFTER, "leave": False, "disable": not shows_bars()}
        return factory(*args, **shown | dict(options))

    transformers.logging.set_verbosity_error()  # the rest are notes on our choices
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.logging.set_tqdm_hook(bar)
    modeling_gguf_pytorch_utils.tqdm = transformers.logging.tqdm  # it has its own name for tqdm


def describe_machine(device: torch.device, dtype: torch.dtype) -> str:
    """One line for a run's record: library versions, device, threads and compute dtype."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cpu = _proc_line("/proc/cpuinfo", "model name") or platform.machine()
        name = f"{cpu}, {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}; {device.type} ({name}), "
        f"{torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}"
    )


def _proc_line(file: str, name: str) -> str:
    """Value of the first line of that name in a file of Linux's /proc; "" without one."""
    with contextlib.suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def mixed_precision(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`: adapters multiply in bfloat16, and their weights stay in float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def memory_of(device: torch.device) -> float:
    """Memory of the device in GiB: a GPU's own, or the limit of the machine or its container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    sizes = [psutil.virtual_memory().total]
    for file in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", for no limit
            sizes.append(int(file.read_text()))
    return min(sizes) / GIB


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_memory_gib` reports (on Linux and CUDA; elsewhere no effect)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB (2^30 bytes): of the GPU's allocator, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    kib = _proc_line("/proc/self/status", "VmHWM").removesuffix("kB")
    return int(kib or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024 / GIB


class Cost(NamedTuple):
    """Time and energy: a reading of the counters (`meter`), or a difference of two readings."""

    seconds: float = 0.0
    joules: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":  # of a tuple it would be concatenation
        return Cost(self.seconds + other.seconds, self.joules + other.joules)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds - other.seconds, self.joules - other.joules)


NO_COST = Cost()


def meter(device: torch.device) -> Cost:
    """The counters of seconds and joules; the difference of two readings is the cost in between.

    Joules are those of `device`, if it is a GPU (NVML), and of all CPU packages with their memory
    (RAPL; in Linux `/sys/class/powercap`, which often only root can read). All processes of the
    machine count. A counter that cannot be read is left out; without any, joules are NaN.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    counters = _counters(device)
    joules = sum(read() for read in counters) if counters else math.nan
    return Cost(time.perf_counter(), joules)


@functools.cache
def _counters(device: torch.device) -> list[Callable[[], float]]:
    """Functions that read the joules so far, one per CPU package and one for the GPU."""
    counters: list[Callable[[], float]] = []
    with contextlib.suppress(ZeusBaseError):  # no such counter, or none that this user may read
        cpus = get_cpus()
        counters += [functools.partial(_cpu_joules, cpus, i) for i in range(len(cpus))]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        with contextlib.suppress(ZeusBaseError):
            gpus = get_gpus()
            if gpus.supports_get_total_energy_consumption(index):
                counters.append(lambda: gpus.get_total_energy_consumption(index) / 1000)
    return counters


def _cpu_joules(cpus: CPUs, index: int) -> float:
    spent = cpus.get_total_energy_consumption(index)  # millijoules
    return (spent.cpu_mj + (spent.dram_mj or 0.0)) / 1000
