import errno

import pytest
from conftest import SMOLLM2

from lib import weights
from lib.loader import load_backbone
from lib.weights import ModelError, resolve_model


def test_damaged_packaged_weights_are_refused_by_checksum(tmp_path, monkeypatch):
    path, digest = weights.find_packaged(SMOLLM2)
    damaged = tmp_path / path.name
    data = bytearray(path.read_bytes())
    data[50_000_000] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr(weights, "find_packaged", lambda _: (damaged, digest))
    with pytest.raises(ModelError, match=r"gguf: checksum differs .* reinstall it"):
        resolve_model(SMOLLM2)


def test_hub_ids_pass_through_and_fail_in_one_line_without_network():
    assert resolve_model("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    with pytest.raises(ModelError, match="HuggingFaceTB/SmolLM2-135M: cannot be loaded") as caught:
        load_backbone("HuggingFaceTB/SmolLM2-135M")
    assert "\n" not in str(caught.value)


def test_no_disk_space_for_the_cache_is_reported_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "CACHE", tmp_path / "cache")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="free; make room") as caught:
        resolve_model(SMOLLM2)
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "cache").iterdir())
