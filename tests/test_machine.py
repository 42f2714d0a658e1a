import logging
import math
import mmap
import os
import random
import time

import numpy as np
import psutil
import pytest
import torch
import zeus.device.cpu
from zeus.device.cpu import rapl

from lib import machine
from lib.machine import (
    GIB,
    Cost,
    choose_device,
    choose_dtype,
    configure_process,
    describe_machine,
    meter,
    mixed_precision,
    peak_memory_gib,
    reset_peak_memory,
)

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
    assert before.joules == 8
    assert joules == 7
    assert seconds > 0


def test_a_counter_that_cannot_be_read_stops_nothing(counters, tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0")  # and no energy_uj
    counters.setattr(rapl, "RAPL_DIR", str(tmp_path))
    assert math.isnan(meter(CPU).joules)


def test_a_machine_without_counters_tells_seconds_alone(counters, tmp_path):
    for name in ("RAPL_DIR", "CONTAINER_RAPL_DIR"):
        counters.setattr(rapl, name, str(tmp_path / "none"))
    before = meter(CPU)
    time.sleep(0.05)
    cost = meter(CPU) - before
    assert 0.05 <= cost.seconds < 30
    assert math.isnan(cost.joules)
    assert math.isnan((Cost(1.0, 2.0) + cost).joules)


@pytest.mark.parametrize(("limit", "gib"), [("2147483648\n", 2), ("max\n", 64), (None, 64)])
def test_a_container_has_no_more_memory_than_its_limit(tmp_path, monkeypatch, limit, gib):
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(limit)
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (file,))
    memory = type("Memory", (), {"total": 64 * 2**30})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert machine.memory_of(torch.device("cpu")) == gib


def test_a_device_and_a_dtype_that_are_named_are_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ValueError, match='device: "cuda" was asked for'):
        choose_device("cuda")
    assert choose_dtype(CPU, "float32") == torch.float32


@pytest.mark.parametrize("native", [False, True])
def test_a_cpu_computes_in_bfloat16_only_where_it_multiplies_it_natively(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_dtype(CPU) == (torch.bfloat16 if native else torch.float32)


@pytest.fixture
def process():
    """Threads and the log as they were, after a test that configures the process."""
    names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
    before, threads = {name: os.environ.get(name) for name in names}, torch.get_num_threads()
    handlers = list(logging.getLogger("lib").handlers)
    yield
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    torch.set_num_threads(threads)
    logging.getLogger("lib").handlers = handlers


@pytest.mark.usefixtures("process")
def test_a_configured_process_repeats_its_random_numbers_on_its_share_of_threads():
    drawn = []
    for _ in range(2):
        configure_process(seed=3, num_threads=2)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "2"
    assert len(logging.getLogger("lib").handlers) == 1  # however often it is configured


@pytest.mark.usefixtures("process")
def test_a_machine_is_described_with_what_decides_its_rounding():
    torch.set_num_threads(2)
    line = describe_machine(CPU, torch.bfloat16)
    assert f"torch {torch.__version__}" in line
    assert line.endswith("2 threads, bfloat16")


def test_products_are_in_the_dtype_of_mixed_precision_and_weights_stay():
    layer = torch.nn.Linear(2, 2)
    for dtype in (torch.bfloat16, torch.float32):
        with mixed_precision(CPU, dtype):
            assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_peak_memory_is_at_least_what_is_held():
    reset_peak_memory(CPU)
    held = mmap.mmap(-1, 2**28)  # 0.25 GiB
    held.write(b"x" * 2**28)
    resident = psutil.Process().memory_info().rss / GIB
    assert peak_memory_gib(CPU) >= resident - 0.01 > 0.25
    held.close()
