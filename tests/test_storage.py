"""Keys of caches change with every module that a cached pass runs through."""

import shutil

import pytest

from lib import storage
from lib.storage import ROOT, computing_fingerprint, modules_behind

PASSES = {
    "cached layers": ("model.fast.cached_layers", "model.load"), "features": ("head.frozen",),
    "tokens": ("model.tokens",), "wipo": ("data.wipo.read",),
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
    for module in modules_behind(*PASSES[name]):
        file = copied / f"{module.replace('.', '/')}.py"
        source = file.read_text()
        file.write_text(source + "\n# edited\n")
        assert computing_fingerprint(*PASSES[name]) != before, module
        file.write_text(source)
    assert computing_fingerprint(*PASSES[name]) == before
    (copied / "report/figures/scores.py").write_text("# edited")
    assert computing_fingerprint(*PASSES[name]) == before  # no pass runs through it


def test_what_a_pass_runs_through_is_found_through_others():
    lower = {"model.fast.cached_layers", "model.fast.attention", "model.fast.packed_attention"}
    lower |= {"model.fast.blocks", "model.batches", "machine", "model.probes"}
    assert lower <= set(modules_behind("model.fast.cached_layers"))
    features = {"head.frozen", "model.load", "model.weights", "head.pooling", "model.batches"}
    assert features | {"model.fast.lora_linear"} <= (
        set(modules_behind("head.frozen", "model.adapters"))
    )


def test_a_run_depends_on_what_its_notebook_computes_with_and_not_on_the_report():
    behind = modules_behind(notebook="03_finetune_embedding")
    assert {"head.pooling", "training.finetune", "evaluation.metrics", "config.arms"} <= set(behind)
    assert not [module for module in behind if module.startswith(("report", "evaluation.i"))]


def test_another_version_of_a_package_that_computes_is_a_miss(monkeypatch):
    before = computing_fingerprint("model.fast.cached_layers")
    monkeypatch.setattr(storage, "version", lambda name: "0")
    assert computing_fingerprint("model.fast.cached_layers") != before
