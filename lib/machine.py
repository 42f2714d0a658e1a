"""The machine under a run: device, threads, precision and memory."""

import contextlib
import functools
import logging
import os
import platform
import random
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import threadpoolctl
import torch
import transformers
from zeus.device import get_cpus, get_gpus
from zeus.device.cpu.common import CPUs
from zeus.exception import ZeusBaseError

CGROUP = Path("/sys/fs/cgroup")
CONTAINER_LIMITS = (CGROUP / "memory.max", CGROUP / "memory/memory.limit_in_bytes")  # v2, v1


def choose_device(device: str = "auto") -> torch.device:
    """The asked device; `auto` is CUDA where there is one and the CPU elsewhere.

    Raises
    ------
    ValueError
        CUDA was asked for and this machine has none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError('device: "cuda" was asked for, but torch finds no CUDA device here')
    return torch.device(device)


def choose_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """The dtype to compute in; `auto` is bfloat16 where the device multiplies it natively."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def start_run(*, seed: int, num_threads: int) -> None:
    """Seed every generator, show the library's log, and keep to a share of the CPU.

    Two torch processes with a thread for each core get in each other's way by a factor of ten, so
    a run never takes more than its `num_threads`; CPU results depend on that number too.
    """
    transformers.logging.set_verbosity_error()  # its notes on our choices; ours are in the log
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    log = logging.getLogger("lib")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    torch.set_num_threads(num_threads)
    threadpoolctl.threadpool_limits(num_threads)  # NumPy's and scikit-learn's
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def describe_machine(device: torch.device, dtype: torch.dtype) -> str:
    """One line for a run's record: library versions, device, threads and compute dtype."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}; {device.type} ({name}), "
        f"{torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}"
    )


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x for x in lines if x.startswith("model name")).split(": ")[1]
    return platform.machine()


def mixed_precision(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`: matrix products of fp32 adapters run in bfloat16, their weights stay."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def memory_of(device: torch.device) -> float:
    """All memory of the device, in GiB: a GPU's own, or what the machine or container allows."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30
    sizes = [psutil.virtual_memory().total]
    for file in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", for no limit
            sizes.append(int(file.read_text()))
    return min(sizes) / 2**30


def reset_peak_memory(device: torch.device) -> None:
    """Start the peak that `peak_memory_gib` reports anew (Linux and CUDA; elsewhere no effect)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB (2^30 bytes): of the GPU's allocator, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def meter(device: torch.device) -> np.ndarray:
    """Two counters, seconds and joules, (2,) float64: between two readings lies what was spent.

    Joules are those of the GPU, if `device` is one, and of all CPU packages with their memory, by
    the counters of NVML and RAPL (in Linux `/sys/class/powercap`, often for root alone). What else
    runs on them is counted too. A counter that cannot be read is left out; without any, NaN.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    counters = _counters(device)
    return np.array([time.perf_counter(), sum(read() for read in counters) if counters else np.nan])


@functools.cache
def _counters(device: torch.device) -> list[Callable[[], float]]:
    """What reads the joules of each part of the machine so far."""
    counters: list[Callable[[], float]] = []
    try:
        cpus = get_cpus()
        counters += [functools.partial(_cpu_joules, cpus, i) for i in range(len(cpus))]
    except ZeusBaseError:  # no such counter, or none that this user may read
        pass
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        try:
            gpus = get_gpus()
            if gpus.supports_get_total_energy_consumption(index):
                counters.append(lambda: gpus.get_total_energy_consumption(index) / 1000)
        except ZeusBaseError:
            pass
    return counters


def _cpu_joules(cpus: CPUs, index: int) -> float:
    spent = cpus.get_total_energy_consumption(index)  # millijoules
    return (spent.cpu_mj + (spent.dram_mj or 0.0)) / 1000
