import math
import time

import numpy as np
import psutil
import pytest
import torch
import zeus.device.cpu
from zeus.device.cpu import rapl

from lib import machine
from lib.machine import meter

CPU = torch.device("cpu")


@pytest.fixture
def counters(monkeypatch):
    """Whatever counters the test puts up, found anew."""
    monkeypatch.setattr(zeus.device.cpu, "_cpus", None)
    for function in (rapl.rapl_is_available, machine._counters):
        function.cache_clear()
    yield monkeypatch
    for function in (rapl.rapl_is_available, machine._counters):
        function.cache_clear()


def test_energy_is_read_from_the_packages_and_their_memory(counters, tmp_path):
    """In the tree of Linux, /sys/class/powercap/intel-rapl, in microjoules."""
    for zone, name, microjoules in (
        ("intel-rapl:0", "package-0", 5_000_000),
        ("intel-rapl:0/intel-rapl:0:0", "dram", 1_000_000),
        ("intel-rapl:1", "package-1", 2_000_000),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(name)
        (tmp_path / zone / "energy_uj").write_text(str(microjoules))
        (tmp_path / zone / "max_energy_range_uj").write_text("262143328850")
    counters.setattr(rapl, "RAPL_DIR", str(tmp_path))
    counters.setattr(rapl.RaplWraparoundTracker, "__init__", lambda *_: None)  # another process
    counters.setattr(rapl.RaplWraparoundTracker, "get_num_wraparounds", lambda _: 0)
    before = meter(CPU)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("9000000")
    seconds, joules = meter(CPU) - before
    assert before[1] == 8
    assert joules == 7
    assert seconds > 0


def test_a_counter_that_cannot_be_read_stops_nothing(counters, tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0")  # and no energy_uj
    counters.setattr(rapl, "RAPL_DIR", str(tmp_path))
    assert math.isnan(meter(CPU)[1])


def test_a_machine_without_counters_tells_seconds_alone(counters, tmp_path):
    for name in ("RAPL_DIR", "CONTAINER_RAPL_DIR"):
        counters.setattr(rapl, name, str(tmp_path / "none"))
    before = meter(CPU)
    time.sleep(0.01)
    seconds, joules = meter(CPU) - before
    assert seconds >= 0.01
    assert math.isnan(joules)
    assert before.dtype == np.float64


@pytest.mark.parametrize(("limit", "gib"), [("2147483648\n", 2), ("max\n", 64), (None, 64)])
def test_a_container_has_no_more_memory_than_its_limit(tmp_path, monkeypatch, limit, gib):
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(limit)
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (file,))
    memory = type("Memory", (), {"total": 64 * 2**30})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert machine.memory_of(torch.device("cpu")) == gib
