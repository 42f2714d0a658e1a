"""Public data sets: downloaded, checked and converted, or refused with one line."""

import errno
import gzip
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lib.config import sources as described
from lib.errors import DataError, ParamsError
from lib.storage import ROOT, checksum

sys.path.insert(0, str(ROOT / "data"))
import conversions
import prepare

SHARED = ROOT.parent / "shared"
ROWS = b"text,label\n" + b"blue water,sea\na red rose,flower\n" * 1000
FILES = {"v 1/train.csv": ROWS, "v 1/test.csv": ROWS[:44]}


class Server(http.server.ThreadingHTTPServer):
    """A loopback server: `answers[path](handler)` answers a path, all others are 404."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.asked = {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = prepare.unquote(self.path)
        self.server.asked.append(path)
        if answer := self.server.answers.get(path):
            answer(self)
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass

    def send(self, content, length=None, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def whole(content):
    return lambda handler: handler.send(content)


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.answers |= {f"/{path}": whole(content) for path, content in FILES.items()}
        yield server
        server.shutdown()


def entry(*addresses, **changes):
    """An entry of sources.yaml: two CSV files, used as they are."""
    return {
        "title": "t", "homepage": "h", "cite": "c", "licence": "CC0", "use": "any", "version": "1",
        "addresses": list(addresses),
        "files": {
            path: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in FILES.items()
        },
        "tables": {
            Path(path).name: {
                "documents": 9, "labels": 2, "sha256": hashlib.sha256(content).hexdigest()
            }
            for path, content in FILES.items()
        },
    } | changes  # fmt: skip


@pytest.fixture
def bring(tmp_path, server, monkeypatch, capfd):
    """`bring("name", mirror="", **entries)`: prepare a set in a data folder of its own."""
    data = tmp_path / "a project" / "data"
    data.mkdir(parents=True)
    for module in (described, prepare):
        monkeypatch.setattr(module, "ROOT", data.parent)
        monkeypatch.setattr(module, "DATA", data)
        monkeypatch.setattr(module, "SOURCES", data / "sources.yaml")
    monkeypatch.setattr(prepare, "RAW", data / "raw")
    monkeypatch.setattr(prepare, "MAX_SILENCE", 1)

    def bring(*names, mirror="", **entries):
        entries = entries or {"flowers": entry(f"{server.address}/{{path}}")}
        (data / "sources.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
        described.read_sources.cache_clear()
        monkeypatch.setenv("DATA_MIRROR", str(mirror))
        prepare.main(list(names))
        return capfd.readouterr().out

    bring.data = data
    yield bring
    described.read_sources.cache_clear()


def tables(data, name="flowers"):
    return {f.name: f.read_bytes() for f in (data / name).glob("*") if f.is_file()}


RIGHT = {Path(path).name: content for path, content in FILES.items()}


def test_a_set_is_downloaded_once_with_a_line_on_its_licence(bring, server):
    assert "flowers: 0.0 MB to download; licence: CC0" in bring("flowers")
    assert tables(bring.data) == RIGHT
    shutil.rmtree(bring.data / "flowers")  # what was downloaded stays
    assert "licence" not in bring()
    assert tables(bring.data) == RIGHT
    assert server.asked == ["/v 1/train.csv", "/v 1/test.csv"]


def test_a_set_that_is_brought_again_is_as_old_as_its_description(bring):
    bring()
    table = bring.data / "flowers" / "train.csv"
    assert table.stat().st_mtime == (bring.data / "sources.yaml").stat().st_mtime


def trickle(handler):
    handler.send(b"", length=10**6)
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.2)


def endless(handler):
    handler.send(b"", length=10**9)
    for _ in range(10**4):
        handler.wfile.write(b"x" * 10**5)


def moved(handler):
    handler.server.answers["/login"] = whole(b"<html>Who are you?</html>")
    handler.send(b"", status=302, Location="/login")


BAD_ANSWERS = {
    "other content": (whole(ROWS.replace(b"sea", b"lake")), "sends more than 33,011 bytes"),
    "same size": (whole(ROWS.replace(b"sea", b"lea")), r"gives another file \(other content\)"),
    "cut short": (lambda handler: handler.send(ROWS[:99], length=len(ROWS)), "breaks off"),
    "shorter": (whole(ROWS[:99]), r"gives another file \(99 bytes, not 33,0"),
    "not found": (lambda handler: handler.send_error(404), "answers 404"),
    "broken": (lambda handler: handler.send_error(503), "answers 503"),
    "a page": (moved, "gives another file"),
    "silent": (lambda handler: time.sleep(3), "does not answer for 1 s"),
    "trickle": (trickle, "not finished after"),
    "endless": (endless, "sends more than"),
}


@pytest.mark.parametrize("fault", BAD_ANSWERS)
def test_an_address_that_does_not_give_the_file_is_named_and_the_next_try_completes(
    fault, bring, server, monkeypatch
):
    answer, reason = BAD_ANSWERS[fault]
    monkeypatch.setattr(prepare, "MIN_SPEED", 10**6)
    good, server.answers["/v 1/train.csv"] = server.answers["/v 1/train.csv"], answer
    with pytest.raises(DataError, match=reason) as error:
        bring("flowers")
    line = str(error.value)
    assert line.startswith(f"flowers: train.csv: {server.address}/v%201/train.csv ")
    assert "\n" not in line
    assert "DATA_MIRROR" in line
    assert not (bring.data / "flowers").exists()
    assert not [file for file in (bring.data / "raw").rglob("*") if file.is_file()]
    server.answers["/v 1/train.csv"] = good
    bring("flowers")
    assert tables(bring.data) == RIGHT


def in_small_pieces(handler):
    """Chunked and compressed, as many servers answer."""
    packed = gzip.compress(ROWS)
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for start in range(0, len(packed), 7):
        piece = packed[start : start + 7]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def test_an_answer_in_small_pieces_is_right(bring, server):
    server.answers["/v 1/train.csv"] = in_small_pieces
    bring()
    assert tables(bring.data) == RIGHT
    modes = {file.stat().st_mode & 0o777 for file in (bring.data / "raw").rglob("*.csv")}
    os.umask(umask := os.umask(0))
    assert modes == {0o666 & ~umask}


def test_a_redirect_to_nowhere_is_one_line(bring, server):
    server.answers["/v 1/train.csv"] = lambda h: h.send(b"", status=302, Location="http://[bad")
    with pytest.raises(DataError, match=r"^flowers: train\.csv: [^\n]*cannot be [^\n]*$"):
        bring()


def test_a_conversion_that_fails_is_one_line(bring, monkeypatch):
    monkeypatch.setitem(conversions.CONVERSIONS, "flowers", lambda raw: raw["petals"])
    with pytest.raises(DataError, match=r"^flowers: its conversion fails: KeyError: 'petals'$"):
        bring()


def test_without_a_network_the_line_says_where_to_put_the_file(bring):
    with pytest.raises(DataError, match=r"cannot be reached.* put the file at .*raw/flowers/v 1"):
        bring(flowers=entry("http://127.0.0.1:9/{path}"))


def test_the_second_address_is_asked_when_the_first_fails(bring, server):
    bring(flowers=entry(f"{server.address}/gone/{{path}}", f"{server.address}/{{path}}"))
    assert tables(bring.data) == RIGHT
    assert server.asked[:2] == ["/gone/v 1/train.csv", "/v 1/train.csv"]


def test_addresses_may_contain_version_and_checksum(bring, server):
    sums = [hashlib.sha256(content).hexdigest() for content in FILES.values()]
    for content, of in zip(FILES.values(), sums, strict=True):
        server.answers[f"/1/{of}"] = whole(content)
    bring(flowers=entry(f"{server.address}/{{version}}/{{sha256}}"))
    assert tables(bring.data) == RIGHT


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_stands_in_for_the_public_host(scheme, bring, tmp_path):
    mirror = tmp_path / "a mirror"
    write(mirror / "of", FILES)
    bring(mirror=f"{scheme}{mirror}", flowers=entry("https://nowhere.invalid/of/{path}"))
    assert tables(bring.data) == RIGHT
    assert not (bring.data / "raw").exists()  # used where they are


def test_an_address_stands_in_for_the_public_host(bring, server):
    bring(mirror=f"{server.address}/", flowers=entry("https://nowhere.invalid/{path}"))
    assert tables(bring.data) == RIGHT


def test_a_mirror_stands_in_for_all_addresses(bring, server):
    several = entry("https://nowhere.invalid/of/{path}", f"{server.address}/{{path}}")
    with pytest.raises(DataError, match=f"{server.address}/of/v%201/train.csv answers 404"):
        bring(mirror=server.address, flowers=several)
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", [None, ROWS[:99], ROWS.replace(b"sea", b"lea")])
def test_a_mirror_that_lacks_a_file_or_has_another_is_named(content, bring, tmp_path):
    if content is not None:
        write(tmp_path / "mirror", {"v 1/train.csv": content})
    with pytest.raises(DataError, match=r"^flowers: .*mirror/v 1/train\.csv: (no such|another)"):
        bring(mirror=tmp_path / "mirror")
    assert not (bring.data / "flowers").exists()


def test_files_that_are_put_there_by_hand_are_used_or_named(bring, server):
    write(bring.data / "raw" / "flowers", FILES)
    bring()
    assert tables(bring.data) == RIGHT
    assert not server.asked
    shutil.rmtree(bring.data / "flowers")
    write(bring.data / "raw" / "flowers", {"v 1/test.csv": b"other"})
    with pytest.raises(DataError, match=r"^flowers: .*raw/flowers/v 1/test\.csv: another file"):
        bring()


def test_tables_that_are_put_there_by_hand_are_used_or_named(bring, server):
    write(bring.data / "flowers", RIGHT)
    bring()
    assert not server.asked
    write(bring.data / "flowers", {"test.csv": b"other"})
    line = r"^flowers: data/flowers/test\.csv: another file .* remove it, then `make data SETS=flow"
    with pytest.raises(DataError, match=line):
        bring()
    assert (bring.data / "flowers" / "test.csv").read_bytes() == b"other"


def test_a_full_disk_is_said_before_and_during_the_download(bring, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prepare.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(DataError, match=r"^flowers: the disk of .* make room$"):
            bring()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepare.pooch.HTTPDownloader, "__call__", full)
        with pytest.raises(DataError, match=r"^flowers: .*: no space left on disk; make room$"):
            bring()
    bring()
    assert tables(bring.data) == RIGHT


def test_one_set_that_fails_does_not_keep_the_others_back(bring, server):
    good = entry(f"{server.address}/{{path}}")
    with pytest.raises(DataError, match=r"^stones: train\.csv: .*404[^\n]*$"):
        bring(stones=entry(f"{server.address}/none/{{path}}"), flowers=good)
    assert tables(bring.data) == RIGHT


def test_an_unknown_set_is_named_with_the_nearest(bring):
    with pytest.raises(DataError, match=r"^flower: no set of data/sources.yaml; did you mean 'flo"):
        bring("flower")


BAD_ENTRIES = {
    "unknown key": ({"license": "x"}, "flowers: license: unknown parameter; did you mean 'licence"),
    "no table": ({"tables": {}}, "flowers: tables: "),
    "bad checksum": ({"files": {"a": {"bytes": 1, "sha256": "abc"}}}, "flowers: files: "),
    "outside": (
        {"files": {"../a": {"bytes": 1, "sha256": "0" * 64}}},
        "flowers: files: .*leaves its folder",
    ),
    "table outside": (
        {"tables": {"../a.csv": {"documents": 1, "labels": 1, "sha256": "0" * 64}}},
        "flowers: tables: ",
    ),
    "no address": ({"addresses": ["ftp://x/y"]}, "flowers: addresses: "),
}


@pytest.mark.parametrize("fault", BAD_ENTRIES)
def test_a_faulty_description_is_one_line(fault, bring, server):
    change, line = BAD_ENTRIES[fault]
    with pytest.raises(ParamsError, match=rf"^data/sources\.yaml: {line}[^\n]*$"):
        bring(flowers=entry(f"{server.address}/{{path}}", **change))


def test_a_conversion_that_gives_other_rows_leaves_nothing(bring, monkeypatch):
    rows = {"train.csv": [{"text": "a", "labels": ["b"]}]}
    monkeypatch.setitem(conversions.CONVERSIONS, "flowers", lambda raw: rows)
    with pytest.raises(DataError, match=r"SHA-256 \w{64}, not \w{64}; no file becomes test"):
        bring()
    assert not (bring.data / "flowers").exists()


def test_all_tables_that_differ_are_named_at_once(bring, server):
    tables = entry()["tables"]
    wrong = {name: table | {"sha256": "0" * 64} for name, table in tables.items()}
    with pytest.raises(DataError, match=r"^flowers: train\.csv .*; test\.csv .*; correct") as error:
        bring(flowers=entry(f"{server.address}/{{path}}", tables=wrong))
    for table in tables.values():
        assert table["sha256"] in str(error.value)


def test_a_set_without_an_address_cannot_be_brought(bring):
    with pytest.raises(DataError, match=r"^flowers: .*train\.csv is missing.*restores it$"):
        bring(flowers=entry(files={}))


@pytest.fixture
def project(tmp_path, server):
    """A copy of the project with a data set of its own; `project.start()` brings it."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data", folder / "data", ignore=lambda *_: {"raw", "debtags"})
    for path in FILES:
        file = server.answers[f"/{path}"]
        server.answers[f"/{path}"] = lambda handler, file=file: (time.sleep(0.5), file(handler))
    values = yaml.safe_dump({"flowers": entry(f"{server.address}/{{path}}")}, sort_keys=False)
    (folder / "data" / "sources.yaml").write_text(values)

    class Project:
        data = folder / "data"

        def start(self, *names):
            return self.run("data/prepare.py", *names)

        def study(self, name, *options):
            return self.run(
                "-m", "snakemake", "--cores", "1", "--nolock", *options, "--config", f"study={name}"
            )

        def run(self, *arguments):
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, text=True,
                env=os.environ | {"PYTHONPATH": str(folder), "DATA_MIRROR": ""},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    return Project()


def test_two_processes_at_once_bring_a_set_once(project, server):
    processes = [project.start() for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert tables(project.data) == RIGHT
    assert sorted(server.asked) == ["/v 1/test.csv", "/v 1/train.csv"]


def test_a_download_that_is_killed_is_completed_by_the_next_try(project, server):
    process = project.start("flowers")
    while "/v 1/test.csv" not in server.asked:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (project.data / "flowers").exists()
    assert project.start("flowers").wait() == 0
    assert tables(project.data) == RIGHT
    assert server.asked.count("/v 1/train.csv") == 1  # was complete
    assert not list(project.data.rglob(".unfinished-*"))


def test_a_conversion_that_is_killed_is_completed_by_the_next_try(project):
    # The second of the tables kills its process in mid-writing.
    (project.data / "conversions.py").write_text(
        "import os, signal, pathlib\n"
        "Raw = dict\n"
        "CONVERSIONS = {}\n"
        "write = pathlib.Path.write_bytes\n"
        "def deadly(path, content):\n"
        "    write(path, content[:9] if path.name == 'test.csv' else content)\n"
        "    if path.name == 'test.csv':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if not pathlib.Path('alive').exists():\n"
        "    pathlib.Path.write_bytes = deadly\n"
    )
    assert project.start().wait() == -signal.SIGKILL
    written = [file.name for file in (project.data / "flowers").iterdir() if file.is_file()]
    assert written == ["train.csv"]
    (project.data.parent / "alive").touch()
    assert project.start().wait() == 0
    assert tables(project.data) == RIGHT
    assert not list(project.data.rglob(".unfinished-*"))


def test_a_mistake_is_one_line_of_the_command(project):
    process = project.start("flower")
    out, err = process.communicate()
    assert process.returncode == 1
    assert err == "flower: no set of data/sources.yaml; did you mean 'flowers'?\n"
    assert not out


READ = (
    "from lib.config import load_params; from lib.data import load_splits; "
    "print(load_splits(load_params('params/one/common.yaml'))['train'].num_rows)"
)


def test_studies_bring_their_set_also_two_at_once_and_readers_name_the_command(project, server):
    folder = project.data.parent
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    shutil.copy(ROOT / "Snakefile", folder)
    common = {
        "dataset": "data/flowers/{split}.csv", "text_columns": ["text"], "label_column": "label",
        "num_train": 20, "num_validation": 4,
    }  # fmt: skip
    for study in ("one", "two"):
        (folder / "params" / study).mkdir(parents=True)
        values = {
            "common": common | {"study": study},
            "tfidf": {"notebook": "02_baselines", "arm": "tfidf"},
        }
        for name, parameters in values.items():
            (folder / "params" / study / f"{name}.yaml").write_text(yaml.safe_dump(parameters))
    # Without the set: a reader names the command, a study plans to bring it.
    line = "data/flowers/train.csv: not on this machine yet; `make data SETS=flowers` brings it"
    assert line in project.run("-c", READ).communicate()[1].splitlines()[-1]
    assert "rule data:" in "".join(project.study("one", "--dry-run").communicate())
    # Two studies at once bring it, once.
    studies = [project.study(study, "--until", "data") for study in ("one", "two")]
    outputs = [study.communicate() for study in studies]
    assert [study.returncode for study in studies] == [0, 0], "\n".join(map("".join, outputs))
    assert tables(project.data) == RIGHT
    assert sorted(server.asked) == ["/v 1/test.csv", "/v 1/train.csv"]
    # With it: it is read, and no study brings it. Another file in its place is refused.
    assert project.run("-c", READ).communicate()[0] == "20\n"
    assert "rule data:" not in "".join(project.study("one", "--dry-run").communicate())
    write(project.data / "flowers", {"train.csv": b"text,label\n"})
    other = READ.replace("yaml'", "yaml', dataset='data/../data/flowers/{split}.csv'")
    assert "another file than data/source" in project.run("-c", other).communicate()[1]
    folder_name = READ.replace("common.yaml'", "common.yaml', dataset='data/flowers'")
    assert "write data/flowers/{split}.csv" in project.run("-c", folder_name).communicate()[1]
    assert "another file than data/source" in project.run("-c", READ).communicate()[1]


# ---- The sets themselves ----

SETS = sorted(described.read_sources())
here = pytest.mark.skipif(
    not (SHARED / "raw").is_dir() or not (SHARED / "data").is_dir(),
    reason="the public files and what they become are not beside this checkout",
)


def public_files(source):
    """Its downloaded files, where a copy of the public hosts has them."""
    return {
        path: SHARED / "raw" / prepare._without_host(prepare._address(source, path, first))
        for path in source.files
        for first in source.addresses[:1]
    }


@here
@pytest.mark.parametrize("name", SETS)
def test_the_rows_of_every_set_are_the_right_ones(name):
    source = described.read_sources()[name]
    right = {
        file.stem: [json.loads(line) for line in file.open()]
        for file in (SHARED / "data" / name).glob("*.jsonl")
    }
    if source.files:
        rows = conversions.CONVERSIONS[name](public_files(source))
    else:
        rows = {
            file: json.loads(pd.read_parquet(source.folder / file).to_json(orient="records"))
            for file in source.tables
        }
    assert {Path(file).stem for file in rows} == set(right)
    for file, converted in rows.items():
        assert converted == right[Path(file).stem]
        described_table = source.tables[file]
        assert described_table.documents == len(converted)
        assert described_table.labels == len({x for row in converted for x in row["labels"]})
        if source.files:
            content = (SHARED / "data" / name / file).read_bytes()
            assert described_table.sha256 == hashlib.sha256(content).hexdigest()


@here
@pytest.mark.parametrize("name", [name for name in SETS if described.read_sources()[name].files])
def test_every_set_comes_through_download_check_and_conversion(name, bring, server):
    committed = yaml.safe_load((ROOT / "data" / "sources.yaml").read_text())[name]
    source = described.Source(name=name, **committed)
    for path, file in public_files(source).items():
        server.answers["/" + str(file.relative_to(SHARED / "raw"))] = whole(file.read_bytes())
        if name == "patents_ipc":  # the copy beside this checkout lacks some records
            committed["files"][path] = {"bytes": file.stat().st_size, "sha256": checksum(file)}
    bring(mirror=server.address, **{name: committed})
    for table in source.tables:
        content = (bring.data / name / table).read_bytes()
        assert content == (SHARED / "data" / name / table).read_bytes()


def test_what_is_committed_is_complete():
    committed = [source for source in described.read_sources().values() if not source.files]
    assert committed
    assert all(source.is_complete for source in committed)


def test_every_described_set_has_a_conversion_or_is_a_table():
    downloaded = {name for name, source in described.read_sources().items() if source.files}
    assert set(conversions.CONVERSIONS) == downloaded
