"""Processes of a study: they stop where they can go on, and none outlives those above it."""

import os
import shlex
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from lib.errors import explain_memory
from lib.storage import ROOT

CHILD = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)"


def start(module, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", f"lib.{module}", *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def until(condition):
    """Wait for a condition, which a slow machine may take minutes to fulfil."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def running(processes):
    """Those that have not ended."""
    alive = [p for p in processes if p.is_running()]
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def below_command(supervisor):
    """The processes of the command that a supervisor has started: a shell and `CHILD`."""
    everything = psutil.Process(supervisor).children(recursive=True)
    below = [process for process in everything if "sleep(600)" in " ".join(process.cmdline())]
    assert len(below) == 2
    return below


@pytest.fixture
def study(tmp_path):
    """A command that has started another one, supervised; its process, and those below it."""
    started = tmp_path / "started"
    script = shlex.join([sys.executable, "-c", CHILD, str(started)]) + "; exit 3"
    process = start("supervise", tmp_path / "runs", "bash", "-c", script)
    until(started.exists)
    below = below_command(process.pid)
    yield process, below
    for left in running(below):  # `CHILD` does not look who started it
        left.kill()
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_has_the_signals_status_and_leaves_nothing(study, number, status):
    process, below = study
    for _ in range(2):  # make passes on what its whole group gets
        process.send_signal(number)
    assert process.wait() == status
    assert not running(below)


def test_a_study_whose_snakemake_is_killed_leaves_nothing(study):
    process, below = study
    below[0].kill()
    assert process.wait() == 137
    assert not running(below)


def test_a_study_has_the_status_of_its_command(study):
    process, below = study
    below[1].kill()
    assert process.wait() == 3


def test_a_second_command_in_a_folder_is_refused_and_after_a_kill_it_runs(study, tmp_path):
    process, below = study
    second = start("supervise", tmp_path / "runs", "true")
    printed, _ = second.communicate()
    assert second.returncode == 1
    assert f"runs: already being run by process {process.pid} on " in printed
    assert printed.count("\n") == 1
    process.kill()
    process.wait()
    until(lambda: not running(below))
    assert start("supervise", tmp_path / "runs", "true").wait() == 0


@pytest.mark.parametrize("more", ["", "; true"])
def test_a_study_stops_when_its_make_is_killed(tmp_path, more):
    """The shell of a rule is between the two, unless make can do without."""
    started = tmp_path / "started"
    script = shlex.join([sys.executable, "-c", CHILD, str(started)]) + "; exit 3"
    command = [sys.executable, "-m", "lib.supervise", str(tmp_path / "runs"), "bash", "-c", script]
    (tmp_path / "Makefile").write_text(f"study:\n\t{shlex.join(command)}{more}\n")
    make = subprocess.Popen(["make", "-f", tmp_path / "Makefile"], cwd=ROOT)
    until(started.exists)
    tree = psutil.Process(make.pid).children(recursive=True)
    [supervisor] = [p for p in tree if "lib.supervise" in p.cmdline()[:3]]
    below = below_command(supervisor.pid)
    make.kill()
    make.wait()
    until(lambda: not running([supervisor, *below]))
    assert start("supervise", tmp_path / "runs", "true").wait() == 0


def test_a_study_outlives_a_shell_that_has_started_it(tmp_path):
    """As `nohup` and `&` do."""
    started = tmp_path / "started"
    later = ["bash", "-c", f"sleep 2; touch {started}"]
    command = [sys.executable, "-m", "lib.supervise", str(tmp_path / "runs"), *later]
    subprocess.run(["bash", "-c", f"nohup {shlex.join(command)} >/dev/null 2>&1 &"], cwd=ROOT)
    until(started.exists)


def test_a_dry_run_beside_a_study_keeps_the_reasons_of_its_failures(tmp_path):
    failures = tmp_path / "runs" / ".failures"
    failures.parent.mkdir()
    failures.write_text("embedding: no room")
    assert start("supervise", tmp_path / "runs", "true", "-n").wait() == 0
    assert failures.read_text() == "embedding: no room"
    assert start("supervise", tmp_path / "runs", "true").wait() == 0
    assert not failures.exists()


@pytest.fixture
def notebook(tmp_path):
    """A notebook whose last cell runs for long; its process and its kernel."""
    cells = [
        "from lib.stopping import stop_on_sigterm\nstop_on_sigterm()",
        f"import time; open({str(tmp_path / 'started')!r}, 'w').close(); time.sleep(600)",
    ]
    written = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    nbformat.write(written, tmp_path / "in.ipynb")
    output = tmp_path / "new" / "out.ipynb"
    shell = f"exec {sys.executable} -m lib.execute {tmp_path / 'in.ipynb'} {output} & wait"
    process = subprocess.Popen(["bash", "-c", shell], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until((tmp_path / "started").exists)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 2
    yield process, below
    for left in running(below):
        left.kill()
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_notebook_that_is_stopped_prints_one_line(notebook):
    process, below = notebook
    os.kill(below[0].pid, signal.SIGTERM)
    printed = process.communicate()[1].splitlines()
    assert printed[-1].endswith("new/out.ipynb: stopped; run it again to go on")
    assert not any("Traceback" in line for line in printed)
    assert not running(below)


@pytest.mark.parametrize(("name", "status"), [("metrics.json", 0), ("other.json", 143)])
def test_a_run_that_has_finished_when_it_is_stopped_has_not_failed(tmp_path, name, status):
    """On another status Snakemake would remove its metrics, which are its output."""
    cell = f"""
import os, pathlib, signal, time
pathlib.Path({str(tmp_path / name)!r}).touch()
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(600)
"""
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    cells = [nbformat.v4.new_code_cell(cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}),
                   tmp_path / "in.ipynb")  # fmt: skip
    files = [str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
    run = subprocess.run([sys.executable, "-m", "lib.execute", *files], cwd=ROOT, check=False)
    assert run.returncode == status


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_a_notebook_that_is_stopped_while_it_starts_does_not_run(tmp_path, seconds):
    cell = nbformat.v4.new_code_cell(f"open({str(tmp_path / 'started')!r}, 'w')")
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    written = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(written, tmp_path / "in.ipynb")
    process = start("execute", tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    time.sleep(seconds)
    process.terminate()
    printed, _ = process.communicate()
    finished = (tmp_path / "started").exists()
    assert process.returncode in (0, 143) if finished else process.returncode in (-15, 143)
    assert "Traceback" not in printed


def test_a_notebook_and_its_kernel_end_with_the_process_above(notebook):
    process, below = notebook
    process.kill()
    process.wait()
    until(lambda: not running(below))


INPUT_ERROR = "from lib.errors import DataError\nraise DataError('my.csv: no label')"
NO_MEMORY = explain_memory("MemoryError", "boom")
KILLED = "the kernel was killed, most often because memory ran out: see `memory_gib`"


@pytest.mark.parametrize(
    ("cell", "reason", "explained"),
    [
        (INPUT_ERROR, "my.csv: no label", False),
        pytest.param("raise MemoryError('boom')", NO_MEMORY, False, marks=pytest.mark.slow),
        pytest.param("1 / 0", "ZeroDivisionError: division by zero", True, marks=pytest.mark.slow),
        pytest.param("import os; os.kill(os.getpid(), 9)", KILLED, True, marks=pytest.mark.slow),
    ],
)
def test_the_last_line_of_a_study_is_why_its_run_failed(tmp_path, cell, reason, explained):
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    cells = [nbformat.v4.new_code_cell(cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}),
                   tmp_path / "in.ipynb")  # fmt: skip
    files = [str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
    run = [sys.executable, "-m", "lib.execute", *files]
    then = f"{shlex.join(run)} || (echo Shutting down; false)"
    process = start("supervise", tmp_path / "runs", "bash", "-c", then)
    printed = process.communicate()[0].splitlines()
    assert process.returncode == 1
    assert printed[-1] == f"{tmp_path}/out.ipynb: {reason}"
    assert any("Traceback" in line for line in printed) == explained
