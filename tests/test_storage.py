"""Keys of caches change with every module that a cached pass runs through."""

import shutil

import pytest

from lib import storage
from lib.data_params import ROOT
from lib.storage import computing_fingerprint, modules_behind

PASSES = {
    "lower": ("lower", "loader"), "features": ("features",), "tokens": ("tokens",),
    "wipo": ("wipo",),
}  # fmt: skip


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of `lib` that may be edited."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    return tmp_path / "lib"


@pytest.mark.parametrize("name", PASSES)
def test_an_edit_of_any_module_that_a_cached_pass_runs_through_is_a_miss(copied, name):
    before = computing_fingerprint(*PASSES[name])
    behind = set().union(*map(modules_behind, PASSES[name]))
    for module in sorted(behind):
        file = copied / f"{module}.py"
        source = file.read_text()
        file.write_text(source + "\n# edited\n")
        assert computing_fingerprint(*PASSES[name]) != before, module
        file.write_text(source)
    assert computing_fingerprint(*PASSES[name]) == before
    (copied / "figures.py").write_text("# edited")
    assert computing_fingerprint(*PASSES[name]) == before  # no pass runs through it


def test_what_a_pass_runs_through_is_found_through_others():
    assert {"lower", "attention", "packed", "layers", "data", "embedding", "device", "probes"} <= (
        modules_behind("lower")
    )
    assert {"features", "loader", "weights", "lora", "pooling", "embedding"} <= (
        modules_behind("features") | modules_behind("adapters")
    )


def test_another_version_of_a_package_that_computes_is_a_miss(monkeypatch):
    before = computing_fingerprint("lower")
    monkeypatch.setattr(storage, "version", lambda name: "0")
    assert computing_fingerprint("lower") != before
