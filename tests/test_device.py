import psutil
import pytest
import torch

from lib import machine as device


@pytest.mark.parametrize(("limit", "gib"), [("2147483648\n", 2), ("max\n", 64), (None, 64)])
def test_a_container_has_no_more_memory_than_its_limit(tmp_path, monkeypatch, limit, gib):
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(limit)
    monkeypatch.setattr(device, "CONTAINER_LIMITS", (file,))
    machine = type("Memory", (), {"total": 64 * 2**30})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert device.memory_of(torch.device("cpu")) == gib
