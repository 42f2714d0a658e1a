"""WIPO-Alpha trees and archives: what is read, left out, refused and cached."""

import csv
import logging
import os
import re
import stat
import zipfile
from pathlib import Path

import pytest
from conftest import load_documents

from lib import storage
from lib.data.wipo import read as wipo
from lib.data.wipo import xml as wipo_xml
from lib.errors import DataError, ParamsError

RECORD = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE record SYSTEM "../../ipctraining.dtd"{subset}>
<record cy="WO" pn="{pn}"><ipcs ed="6" mc="{mc}">{secondary}</ipcs>
<pas><pa>Ada</pa><pa>Bob</pa></pas><tis><ti xml:lang="FR">Charrue</ti>
<ti xml:lang="EN">{title}</ti></tis><abs><ab>It  ploughs
well.</ab></abs><cls><cl>{claims}</cl></cls><txts><txt>{description}</txt></txts></record>
"""


def record(pn, mc="A01B03308", others=(), *, encoding="utf-8", subset="", **texts):
    texts = {
        "title": "Plough",
        "claims": "CLAIMS 1. A plough of 2 parts. 2. The plough of claim 1.",
        "description": "one two three",
    } | texts
    secondary = "".join(f'<ipc ic="{code}"/>' for code in others)
    content = RECORD.format(
        pn=pn, mc=mc, secondary=secondary, encoding=encoding, subset=subset, **texts
    )
    return content.encode(encoding)


def write_tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def good_files(number):
    """As many files below Train as below test."""
    return {
        f"{split}/A/{i // 3}/{split}{i}.xml": record(f"WO{split}{i}")
        for split in ("Train", "test")
        for i in range(number)
    }


@pytest.fixture
def read(tmp_path, monkeypatch):
    """`read_wipo_alpha` of files (or of a path) with a cache of its own and one worker."""

    def read(files, *, max_bad_share=0.01, num_workers=1, **options):
        monkeypatch.setattr(wipo, "MAX_BAD_SHARE", max_bad_share)
        monkeypatch.setattr(wipo, "cpu_count", lambda: num_workers)
        is_path = isinstance(files, Path)
        root = files if is_path else write_tree(tmp_path / "tree", files)
        return wipo.read_wipo_alpha(root, **{"level": "subclass"} | options)

    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")
    return read


def bad_rows(tmp_path):
    (listing,) = (tmp_path / "cache").glob("wipo/*/bad.csv")
    with listing.open(encoding="utf-8", newline="") as file:
        return [(row["file"], row["reason"]) for row in csv.DictReader(file)]


def test_columns_splits_and_order_by_path(read):
    splits = read({"x/TEST/1.XML": record("WO 3"), "x/train/b.xml": record("WO1"),
                   "x/train/a/z.xml": record("WO2"), "x/train/readme.txt": b"no patent",
                   "x/train/._b.xml": b"macOS metadata"})  # fmt: skip
    fields = ["title", "abstract", "first_claim", "description"]
    assert splits["train"].column_names == ["id", "labels", *fields]
    assert splits["train"]["id"][:] == ["WO2", "WO1"]
    assert splits["test"][0] == {
        "id": "WO 3", "labels": ["A01B"], "title": "Plough", "abstract": "It ploughs well.",
        "first_claim": "A plough of 2 parts.", "description": "one two three",
    }  # fmt: skip


def test_labels_are_main_first_then_distinct_secondary_at_each_level(read):
    others = ["A01C00100", "A01B03308", "B60P 1/04", "A01B 1/00"]
    files = good_files(1) | {"train/1.xml": record("WO1", others=others)}
    expected = {
        "section": ["A", "B"],
        "class": ["A01", "B60"],
        "subclass": ["A01B", "A01C", "B60P"],
        "main_group": ["A01B 33", "A01C 1", "B60P 1", "A01B 1"],
    }
    for level, labels in expected.items():
        assert read(files, level=level)["train"]["labels"][-1] == labels


def test_fields_are_chosen_and_claims_stay_whole(read):
    splits = read(good_files(1), fields=["claims", "applicants"])
    assert splits["train"].column_names == ["id", "labels", "claims", "applicants"]
    assert splits["train"]["claims"][0].endswith("2. The plough of claim 1.")
    assert splits["train"]["applicants"][0] == "Ada; Bob"


def test_first_claim_of_separate_claims_is_the_first(read):
    claims = "A harrow.</cl><cl>The harrow of claim 1."
    splits = read(good_files(1) | {"train/1.xml": record("WO1", claims=claims)})
    assert splits["train"]["first_claim"][-1] == "A harrow."


def test_description_is_cut_to_its_first_words(read):
    files = good_files(1) | {"train/1.xml": record("WO1", description="a b\n c <p>d</p><p>e</p>")}
    for words, text in ((2, "a b"), (4, "a b c d"), (5, "a b c d e"), (300, "a b c d e")):
        splits = read(files, description_words=words)
        assert splits["train"]["description"][-1] == text


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-8"])
def test_declared_encoding_and_named_characters_are_read(read, encoding):
    title = "Gerät für &eacute;t&eacute; &amp; &alpha; &#233;"
    splits = read(good_files(1) | {"train/1.xml": record("WO1", encoding=encoding, title=title)})
    assert splits["train"]["title"][-1] == "Gerät für été & α é"


def test_malformed_secondary_code_is_dropped_and_listed(read, tmp_path, caplog):
    files = good_files(1) | {"train/1.xml": record("WO1", others=["Z99", "B60P00104"])}
    splits = read(files, max_bad_share=0)
    assert splits["train"]["labels"][-1] == ["A01B", "B60P"]
    assert "dropped 1 malformed secondary code" in caplog.text
    ((file, reason),) = bad_rows(tmp_path)
    assert file == "train/1.xml"
    assert "'Z99' is malformed" in reason


LAUGHS = '<!ENTITY a "ha"><!ENTITY b "' + "&a;" * 50 + '"><!ENTITY c "' + "&b;" * 50 + '">'
BAD = {
    "truncated": (record("WO1")[:-20], "no element found|unclosed"),
    "empty": (b"", "no element found"),
    "other root": (b"<patent pn='1'/>", "does not start with a <record>"),
    "no pn": (record(" "), "does not start with a <record> that has a pn"),
    "no main code": (record("WO1", mc=""), "no main code"),
    "malformed code": (record("WO1", mc="A1"), "'A1' is malformed"),
    "code without main group": (record("WO1", mc="A01B"), "'A01B' names no main group"),
    "repeated pn": (record("WOTrain0"), "'WOTrain0' is that of Train/A/0/Train0.xml too"),
    "wrong encoding": (record("WO1").replace(b"well", b"w\xe9ll"), "not well-formed"),
    "unknown encoding": (record("WO1").replace(b'"utf-8"', b'"klingon"'), "unknown encoding"),
    "too large": (record("WO1", description="word " * 20_000), "more than the 50000"),
    "billion laughs": (record("WO1", subset=f" [{LAUGHS}]", title="&c;"), "EntitiesForbidden"),
    "external entity": (
        record("WO1", subset=' [<!ENTITY x SYSTEM "file:///etc/passwd">]', title="&x;"),
        "EntitiesForbidden.*/etc/passwd",
    ),
    "parameter entity": (
        record("WO1", subset=' [<!ENTITY % x SYSTEM "http://127.0.0.1/x.dtd"> %x;]'),
        "EntitiesForbidden",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_file_is_left_out_and_listed_with_its_reason(read, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(wipo_xml, "MAX_BYTES", 50_000)
    content, reason = BAD[fault]
    splits = read(good_files(2) | {"train/bad.xml": content}, max_bad_share=0.5)
    assert splits["train"]["id"][:] == ["WOTrain0", "WOTrain1"]
    ((file, found),) = bad_rows(tmp_path)
    assert file == "train/bad.xml"
    assert re.search(reason, found)


def test_file_without_text_or_split_is_bad(read, tmp_path):
    blank = record("WO1", title=" ").replace(b"Charrue", b"")
    files = good_files(2) | {"train/1.xml": blank, "0.xml": record("WO2")}
    read(files, fields=["title"], max_bad_share=0.5)
    assert bad_rows(tmp_path) == [
        ("0.xml", "lies below neither train nor test"), ("train/1.xml", "no text in title"),
    ]  # fmt: skip


def test_share_of_bad_files_decides(read, tmp_path, caplog):
    files = good_files(2) | {"train/bad.xml": b"<"}
    read(files, max_bad_share=0.2)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "1 of 5 files (20.00%) cannot be used, the first is train/bad.xml" in warning
    (listing,) = (tmp_path / "cache").glob("wipo/*/bad.csv")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "tree", max_bad_share=0.19)
    for part in (
        "1 of 5 files (20.00%)",
        "train/bad.xml",
        str(listing),
        "at most 19.00% may be bad",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cache_serves_until_a_file_changes(read, tmp_path, monkeypatch):
    files = good_files(2)
    first = read(files)
    changed = tmp_path / "tree" / "test" / "A" / "0" / "test1.xml"
    with monkeypatch.context() as patch:
        patch.setattr(wipo_xml, "_read_document", None)  # nothing may be parsed again
        again = read(tmp_path / "tree", level="main_group")
        assert again["test"]["title"][:] == first["test"]["title"][:]
        assert again["test"]["labels"][0] == ["A01B 33"]
    before = changed.stat()
    changed.write_bytes(record("WOtest1", title="Ploogh"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read(tmp_path / "tree")["test"]["title"][:] == ["Plough", "Ploogh"]
    assert len(list((tmp_path / "cache" / "wipo").iterdir())) == 2


def test_a_damaged_cache_is_parsed_again(read, tmp_path, damage, caplog):
    first = read(good_files(2))
    damage(tmp_path / "cache" / "wipo")
    again = read(tmp_path / "tree")
    assert "computing it anew" in caplog.text
    assert all(again[split].to_dict() == first[split].to_dict() for split in first)


@pytest.mark.slow
def test_result_does_not_depend_on_num_workers(read, tmp_path, monkeypatch):
    monkeypatch.setattr(wipo, "CHUNK", 3)
    files = good_files(5) | {"train/bad.xml": b"<", "train/again.xml": record("WOtest0")}
    results, listings = [], []
    for workers in (1, 2):
        cache = tmp_path / str(workers)
        monkeypatch.setattr(storage, "CACHE", cache)
        results.append(read(files, num_workers=workers, max_bad_share=0.5))
        listings.append(next(cache.glob("wipo/*/bad.csv")).read_bytes())
    assert listings[0] == listings[1]
    for split in ("train", "test"):
        assert results[0][split].to_dict() == results[1][split].to_dict()
        assert results[0][split].num_rows == 5


def write_archive(path, files, *extra):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for info in extra:
            archive.writestr(info, record("WO9"))
    return path


def test_archive_is_read_like_its_directory_and_not_extracted(read, tmp_path):
    files = good_files(3)
    archive = write_archive(tmp_path / "wipo.zip", files)
    from_archive = read(archive)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "wipo.zip"]
    from_folder = read(files)
    for split in ("train", "test"):
        assert from_archive[split].to_dict() == from_folder[split].to_dict()


@pytest.mark.parametrize(
    "name", ["train/../../x.xml", "/train/x.xml", "..\\train\\x.xml", "C:/train/x.xml"]
)
def test_archive_that_climbs_out_is_refused(read, tmp_path, name):
    archive = write_archive(tmp_path / "wipo.zip", good_files(1), zipfile.ZipInfo(name))
    with pytest.raises(DataError, match="leads out of the archive") as caught:
        read(archive)
    assert repr(name) in str(caught.value)


def test_archive_with_a_symbolic_link_is_refused(read, tmp_path):
    link = zipfile.ZipInfo("train/link.xml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DataError, match=r"'train/link\.xml' is a symbolic link"):
        read(write_archive(tmp_path / "wipo.zip", good_files(1), link))


def test_member_that_unpacks_to_too_much_is_not_unpacked(read, tmp_path):
    bomb = b" " * (wipo_xml.MAX_BYTES + 1)
    archive = write_archive(tmp_path / "wipo.zip", good_files(1) | {"train/bomb.xml": bomb})
    assert archive.stat().st_size < 100_000
    read(archive, max_bad_share=0.5)
    assert bad_rows(tmp_path) == [
        ("train/bomb.xml", "16777217 bytes are more than the 16777216 that are read")
    ]


@pytest.mark.parametrize("member", ["damaged", "encrypted"])
def test_unreadable_member_is_a_bad_file(read, tmp_path, member):
    files = good_files(1) | {"train/bad.xml": record("WO1")}
    archive = write_archive(tmp_path / "wipo.zip", files)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo("train/bad.xml").header_offset
        if member == "damaged":
            content[start + 60] ^= 0xFF
        else:
            content[start + 6] |= 1
            content[content.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert read(archive, max_bad_share=0.5).num_rows == {"train": 1, "test": 1}
    assert [file for file, _ in bad_rows(tmp_path)] == ["train/bad.xml"]


def test_nothing_to_read_is_refused(read, tmp_path):
    with pytest.raises(DataError, match=r"neither a directory nor a \.zip"):
        read(tmp_path / "missing")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no\.zip: not a readable \.zip archive"):
        read(tmp_path / "no.zip")
    for root in (write_tree(tmp_path / "none", {"train/a.txt": b""}),
                 write_archive(tmp_path / "none.zip", {"train/a.txt": b""})):  # fmt: skip
        with pytest.raises(DataError, match=r"no \.xml file in it"):
            read(root)


def test_both_splits_are_needed(read):
    with pytest.raises(DataError, match="no document below a directory 'test'"):
        read({"train/1.xml": record("WO1")})


def test_dangling_link_is_refused(read, tmp_path):
    root = write_tree(tmp_path / "tree", good_files(1))
    (root / "test" / "gone.xml").symlink_to(tmp_path / "gone.xml")
    with pytest.raises(DataError, match=r"gone\.xml: cannot be read: No such file"):
        read(root)


def test_file_that_the_machine_cannot_read_stops_and_leaves_no_cache(read, tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        if path.suffix == ".xml":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    opened = Path.open
    root = write_tree(tmp_path / "tree", good_files(1))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"Train0\.xml cannot be read: Permission denied"):
        read(root)
    assert not list((tmp_path / "cache" / "wipo").iterdir())


def test_field_that_no_document_has_is_told(read, caplog):
    files = {name: c.replace(b"<pa>", b"<x>").replace(b"</pa>", b"</x>")
             for name, c in good_files(1).items()}  # fmt: skip
    read(files, fields=["title", "applicants"])
    assert "no document of train has a text in 'applicants'" in caplog.text


@pytest.mark.parametrize(
    ("option", "value"),
    [("level", "group"), ("fields", ["titel"]), ("fields", []), ("fields", ["title", "title"])],
)
def test_argument_out_of_range_is_refused(read, option, value):
    with pytest.raises(ValueError, match=f"{option}: "):
        read(good_files(1), **{option: value})


LEVEL = {"label_level": "class"}
LENGTH = "text_columns: say how many words of a description, as in .description:300"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "label_level: WIPO-Alpha needs one of section, class, subclass, main_group; set the"),
        (LEVEL | {"text_columns": ["description"]}, LENGTH),
        (LEVEL | {"text_columns": ["title", "description:0"]}, LENGTH),
    ],
)
def test_parameters_that_do_not_suit_the_collection_are_refused_before_it_is_read(options, message):
    with pytest.raises(ParamsError, match=message) as caught:  # of a folder that is not there
        load_documents("wipo:nowhere", **options)
    assert "\n" not in str(caught.value)


def test_a_field_that_is_named_twice_is_refused_before_the_collection_is_read():
    fields = ["title", "description:300", "description:9"]
    with pytest.raises(DataError, match="wipo:nowhere: column 'description' is named twice as tex"):
        load_documents("wipo:nowhere", label_level="class", text_columns=fields)
