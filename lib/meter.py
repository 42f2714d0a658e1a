"""What work takes: seconds, and energy where the machine tells it."""

import functools
import time
from collections.abc import Callable

import numpy as np
import torch
from zeus.device import get_cpus, get_gpus
from zeus.device.cpu.common import CPUs
from zeus.exception import ZeusBaseError


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
