"""Kills at random moments: the same command, run again, gives the same study without any help.

`make survive` runs a small study `KILLS` times and kills every kind of its processes once in each,
one after the other, and prints how many studies recovered.
"""

import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from lib.storage import ROOT

KILLS = int(os.environ.get("KILLS", "4"))
SEED = int(os.environ.get("KILLS_SEED", "0"))
VICTIMS = ("lib.supervise", "snakemake", "lib.execute", "ipykernel_launcher", "nbconvert")


def study_of(folder, *arms, **values):
    """A params folder `killed` with some arms of the smoke study, changed by `values`."""
    params = folder / "params" / "killed"
    params.mkdir(parents=True)
    for name in ("common", *arms):
        text = (ROOT / "params" / "smoke" / f"{name}.yaml").read_text()
        text = text.replace('study: "smoke"', 'study: "killed"')
        if name != "common":
            text = "\n".join(line for line in text.splitlines() if line.split(":")[0] not in values)
            if "03" in text:
                text += "\n" + "\n".join(f"{key}: {value}" for key, value in values.items()) + "\n"
        (params / f"{name}.yaml").write_text(text)


def start(folder, *targets):
    """The study as `make study` starts it."""
    config = [f"{name}_dir={folder / name}" for name in ("params", "runs", "figures")]
    command = [sys.executable, "-m", "lib.supervise", str(folder / "runs" / "killed"),
               sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-triggers", "mtime",
               "--max-checksum-file-size", "0", "--nolock", "--rerun-incomplete",
               *targets, "--config", "study=killed", *config]  # fmt: skip
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def find(process, victim):
    """The youngest process of the tree whose command has the victim's name, if any."""
    tree = psutil.Process(process.pid)
    found = [p for p in (tree, *tree.children(recursive=True)) if victim in _command(p)]
    return found[-1] if found else None


def _command(process):
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    if "lib.supervise" in words[:3]:  # its arguments name others
        return "lib.supervise"
    if "-c" in words[1:2]:  # a shell above a victim, or the guard of lib.supervise
        return ""
    return " ".join(words[:5])


def kill(process, victim, seconds):
    """Kill -9 a victim some seconds after it has started; true if it was still there."""
    while not (found := find(process, victim)):
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(seconds)
    try:
        found.kill()
    except psutil.NoSuchProcess:
        return False
    process.wait()
    return True


def scores(folder):
    """Scores of each run of the study."""
    files = sorted((folder / "runs").glob("killed/*/seed-0/predictions.parquet"))
    return {f.parts[-3]: np.stack(pd.read_parquet(f)["scores"]) for f in files}


@pytest.mark.slow
def test_a_run_whose_snakemake_was_killed_is_run_again_unaided(tmp_path):
    study_of(tmp_path, "tfidf")
    metrics = tmp_path / "runs/killed/tfidf/seed-0/metrics.json"
    process = start(tmp_path, str(metrics))
    assert kill(process, "snakemake", 0.5) or metrics.exists()
    assert start(tmp_path, str(metrics)).wait() == 0, (tmp_path / "log").read_text()
    assert metrics.exists()


@pytest.mark.slow
@pytest.mark.reliability
def test_every_killed_study_recovers_to_the_same_scores(tmp_path):
    study_of(tmp_path, "tfidf", "embedding", num_epochs=3, save_steps=2)
    started = time.time()
    assert start(tmp_path).wait() == 0, (tmp_path / "log").read_text()
    duration = time.time() - started
    whole, moments = scores(tmp_path), random.Random(SEED)
    assert whole.keys() == {"tfidf", "embedding"}
    recovered = kills = 0
    for number in range(KILLS):
        shutil.rmtree(tmp_path / "runs")
        shutil.rmtree(tmp_path / "figures")
        done = []
        for victim in moments.sample(VICTIMS, len(VICTIMS)):  # each goes on where the last one died
            most = 2 if victim == "nbconvert" else duration / len(VICTIMS)  # so that all are met
            seconds = moments.uniform(0, most)
            if kill(start(tmp_path), victim, seconds):
                done.append(f"{victim} after {seconds:.1f} s")
        status = start(tmp_path).wait()
        again = scores(tmp_path)
        same = again.keys() == whole.keys() and all(
            np.array_equal(again[arm], whole[arm]) for arm in whole
        )
        fine = status == 0 and same and (tmp_path / "figures" / "killed" / "report.html").exists()
        kills += len(done)
        recovered += fine
        print(f"{number} killed: {', '.join(done)}: {fine=}", flush=True)
    print(f"{kills} kills in {KILLS} studies, {recovered} of which recovered unaided")
    assert recovered == KILLS
