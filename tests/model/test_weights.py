import errno

import pytest
from conftest import SMOLLM2

from lib.errors import ModelError
from lib.model import weights
from lib.model.load import load_backbone
from lib.model.weights import model_fingerprint, resolve_model


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


def test_a_model_is_known_by_its_weights_its_config_and_its_commit(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    known = set()
    for name in ("pytorch_model.bin", "config.json"):
        for content in ("one", "two"):
            (folder / name).write_text(content)
            known.add(model_fingerprint(str(folder)))
    assert len(known) == 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_fingerprint("owner/name") == "owner/name"
    for file, content in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        path = tmp_path / "models--owner--name" / file
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert model_fingerprint("owner/name") == "owner/name@abc"
    assert model_fingerprint("no/such/folder") == "no/such/folder"
