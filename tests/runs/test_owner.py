"""One process per run: who owns its folder, who is refused, and who takes over."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib.config.arms import BaselineParams
from lib.errors import InputError
from lib.runs import owner
from lib.runs.owner import OWNER, Owner

# The module alone: its room would bring torch with it.
HOLD = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

spec = spec_from_file_location("owner", sys.argv[2])
owner = module_from_spec(spec)
spec.loader.exec_module(owner)
owner.Owner.take(Path(sys.argv[1]))
print("owns", flush=True)
sys.stdin.read()
"""


def hold(folder):
    """Start another process of this machine that takes the folder."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, owner.__file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def other(tmp_path):
    """Another process of this machine that owns the folder."""
    process = hold(tmp_path)
    assert process.stdout.readline() == b"owns\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_is_sent_to_another_process_owns_nothing_there(tmp_path):
    owned = Owner.take(tmp_path)
    assert pickle.loads(pickle.dumps([owned])) == [None]
    owned.release()


def write_owner(folder, **changes):
    about = owner._this_process() | changes
    (folder / OWNER).write_text(json.dumps(about))
    return about


def test_a_second_process_is_refused_until_the_first_is_killed_or_ends(tmp_path, other):
    refusal = rf"process {other.pid} on \S+ since .* is writing this run; wait for it or end it"
    with pytest.raises(InputError, match=refusal):
        Owner.take(tmp_path)
    other.kill()
    other.wait()
    Owner.take(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_ends_leaves_nothing(tmp_path, other):
    other.communicate(b"")
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_another_machine_is_respected_as_long_as_it_gives_signs_of_life(
    tmp_path, monkeypatch
):
    write_owner(tmp_path, host="elsewhere", pid=1)
    heart = threading.Timer(0.2, os.utime, [tmp_path / OWNER])
    heart.start()
    with pytest.raises(InputError, match="process 1 on elsewhere since"):
        Owner.take(tmp_path)
    monkeypatch.setattr(owner, "WATCH", 0.1)  # a batch job that is run again on another node
    Owner.take(tmp_path).release()
    monkeypatch.undo()
    write_owner(tmp_path, host="elsewhere", pid=1)
    long_ago = (tmp_path / OWNER).stat().st_mtime - owner.STALE_AFTER - 60
    os.utime(tmp_path / OWNER, (long_ago, long_ago))
    Owner.take(tmp_path).release()


def test_an_owner_that_opens_its_run_meanwhile_disturbs_nobody(tmp_path, monkeypatch):
    """It removes temporary files, as `open_run` does."""

    def opens(file, touched=owner.touched):
        for left in tmp_path.glob("tmp*"):
            left.unlink()
        return touched(file)

    monkeypatch.setattr(owner, "touched", opens)
    write_owner(tmp_path, host="elsewhere", pid=1)
    assert not owner._is_stale(tmp_path / OWNER)


@pytest.mark.parametrize("pid", [1, 0, -5, 10**30])
def test_a_process_that_got_the_id_of_a_dead_one_is_not_its_owner(tmp_path, pid):
    write_owner(tmp_path, pid=pid, started=1.0)
    Owner.take(tmp_path).release()


@pytest.mark.parametrize("machine", ["another start of this host", "", None])
def test_a_container_of_the_same_name_is_another_machine(tmp_path, monkeypatch, machine):
    """Its process ids mean nothing here; nor did earlier versions say where theirs were from."""
    monkeypatch.setattr(owner, "WATCH", 0.1)
    about = write_owner(tmp_path, machine=machine, pid=1, started=1.0)
    if machine is None:
        (tmp_path / OWNER).write_text(json.dumps({k: about[k] for k in about if k != "machine"}))
    heart = threading.Thread(target=beat, args=[tmp_path / OWNER])
    heart.start()
    with pytest.raises(InputError, match="process 1 on "):
        Owner.take(tmp_path)
    (tmp_path / OWNER).unlink()
    heart.join()


def beat(file):
    while file.exists():
        with contextlib.suppress(FileNotFoundError):
            os.utime(file)
        time.sleep(0.01)


@pytest.mark.parametrize("make", [
    os.mkfifo, Path.mkdir, lambda file: file.symlink_to(OWNER),
    lambda file: file.symlink_to("nowhere"), lambda file: file.symlink_to("/dev/zero"),
])  # fmt: skip
def test_what_is_no_file_is_no_owner(tmp_path, make):
    make(tmp_path / OWNER)
    Owner.take(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


NOBODY = ["", "{", "[]", "[" * 100_000, '{"pid": "x"}', '{"host": "h", "pid": 1}']


@pytest.mark.parametrize("content", NOBODY)
def test_a_file_that_names_nobody_is_respected_for_a_while(tmp_path, content, monkeypatch, caplog):
    monkeypatch.setattr(owner, "WATCH", 0.1)
    (tmp_path / OWNER).write_text(content)
    Owner.take(tmp_path).release()
    assert "an unknown process may be writing this run; waiting" in caplog.text


def test_a_notebook_opens_its_run_again(tmp_path):
    first, again = Owner.take(tmp_path), Owner.take(tmp_path)
    first.release()
    again.require()
    again.release()


def test_an_owner_gives_signs_of_life_and_sees_that_it_was_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "HEARTBEAT", 0.01)
    touched, utime = threading.Event(), os.utime
    monkeypatch.setattr(owner.os, "utime", lambda file: (utime(file), touched.set()))
    held = Owner.take(tmp_path)
    assert touched.wait(60)
    about = write_owner(tmp_path, host="elsewhere")
    with pytest.raises(InputError, match=r"was taken over by process .* on elsewhere"):
        held.require()
    held.release()
    assert json.loads((tmp_path / OWNER).read_text()) == about


def test_of_many_that_take_over_at_once_one_owns(tmp_path):
    write_owner(tmp_path, pid=1, started=1.0)
    many = [hold(tmp_path) for _ in range(3)]
    try:
        assert sorted(process.stdout.readline() for process in many) == [b"", b"", b"owns\n"]
    finally:
        for process in many:
            process.kill()
            process.communicate()


def test_the_same_arm_is_not_opened_twice_even_with_other_parameters(tmp_path):
    params = BaselineParams(study="s", arm="a", runs_dir=str(tmp_path))
    params.run_dir.mkdir(parents=True)
    above = os.getppid()
    write_owner(params.run_dir, pid=above, started=owner._started(above))
    with pytest.raises(InputError, match=rf"a/seed-0: process {above} on "):
        Owner.take(params.model_copy(update={"max_length": 7}).run_dir)
