"""Errors that want of memory explains are one line, whichever library raises them."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib.errors import explain_memory

MOST = 2**62  # bytes that no machine has


def raised(function):
    with pytest.raises((MemoryError, RuntimeError)) as error:
        function()
    return type(error.value).__name__, str(error.value)


@pytest.mark.parametrize("allocate", [
    lambda: np.ones(MOST // 8), lambda: torch.ones(MOST // 4), lambda: b" " * MOST,
])  # fmt: skip
def test_an_allocation_that_fails_is_explained(allocate):
    line = explain_memory(*raised(allocate))
    assert line.startswith("no memory left (")
    assert "batch_size" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("kind", "message"),
    [("RuntimeError", "could not create a primitive"),
     ("OSError", "[Errno 12] Cannot allocate memory"),
     ("ImportError", "libtorch.so: failed to map segment from shared object"),
     ("ModelError", "m: cannot be loaded: RuntimeError: unable to mmap: Cannot allocate memory")],
)  # fmt: skip
def test_messages_that_speak_of_memory_are_explained(kind, message):
    assert message in explain_memory(kind, message)


@pytest.mark.parametrize("kind", ["DataError", "ParamsError", "InputError", "ValueError"])
def test_errors_that_quote_a_users_data_are_left_alone(kind):
    assert not explain_memory(kind, 'my.csv: label "out of memory" has one document')


def test_other_errors_are_left_alone():
    assert not explain_memory("ZeroDivisionError", "division by zero")


def test_a_limit_of_the_process_is_named():
    code = (
        "import resource; from lib.errors import explain_memory; "
        "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, resource.RLIM_INFINITY)); "
        "print(explain_memory('MemoryError', ''))"
    )
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    line = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert line.stdout.startswith("no memory left of the 3.0 GiB that `ulimit -v` allows (")


@pytest.mark.slow
@pytest.mark.reliability
@pytest.mark.parametrize("gib", [2.8, 3.4, 4.0])
def test_a_run_without_enough_memory_ends_in_one_line(tmp_path, gib):
    most = int(gib * 2**30)
    run = [sys.executable, "-m", "lib.execute", "notebooks/03_finetune_embedding.ipynb",
           str(tmp_path / "out.ipynb"), "--no-progress-bar", "-p", "study", "smoke", "-p", "arm",
           "embedding", "-r", "runs_dir", str(tmp_path / "runs")]  # fmt: skip
    done = subprocess.run(
        run,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no memory left of the" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "runs").rglob("metrics.json"))
