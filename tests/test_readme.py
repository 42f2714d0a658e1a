"""README, docs and figures/README lead to what exists and show the committed numbers."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from cogapp import Cog

from lib.__main__ import main
from lib.storage import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data" / "README.md"]
PAGES += [ROOT / "CONTRIBUTING.md", ROOT / "figures" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def headings(page):
    """Anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_opens_with_the_question_the_answer_a_figure_and_two_commands():
    lines = README.splitlines()
    assert len(lines) <= 120
    opening = "\n".join(lines[:30])
    assert opening.index("?") < opening.index("The answer so far")
    for part in ("(figures/answer/tasks.png)", "\nmake study", "\nmake test"):
        assert part in opening


@by_page
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    for target, anchor in links:
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), f"{target}#{anchor}"


@by_page
def test_every_command_and_every_file_of_lib_exists(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split())
    assert set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", text, re.MULTILINE)) <= {
        pair for name in targets for pair in ((name, ""), ("", name))
    }
    for folder, study in re.findall(r"(?:PARAMS=(\S+) )?STUDY=([\w-]+)", text):
        assert study == "mine" or (ROOT / (folder or "params") / study).is_dir(), study
    for file in re.findall(r"(?:lib|tests|notebooks|params|docs)/[\w/]+\.(?:py|ipynb|yaml)", text):
        assert "mine/" in file or (ROOT / file).is_file(), file
    for folder in re.findall(r"`((?:lib|tests|params)/[\w/]+)/?`", text):
        assert "mine" in folder or (ROOT / folder).exists(), folder


def test_commands_of_lib_are_those_of_readme(capsys):
    named = re.search(r"python -m lib ([a-z |]+)\n", README).group(1).split(" | ")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE)
    assert shown == named


def test_generated_tables_are_up_to_date(monkeypatch, capsys):
    """`make readme` writes them."""
    monkeypatch.chdir(ROOT)
    options = re.search(r"^COG := cog (.+)$", MAKEFILE, re.MULTILINE).group(1)
    options = [text.strip('"') for text in re.findall(r'"[^"]*"|\S+', options)]
    pages = [str(page) for page in PAGES]
    assert Cog().main(["cog", *options, "--check", *pages]) == 0, capsys.readouterr().out


def test_every_score_that_readme_names_is_in_a_committed_table():
    """Decimals such as +0.12 or 0.919, rounded as they are written."""
    tables = [pd.read_csv(file) for file in (ROOT / "figures").glob("*/*.csv")]
    known = [abs(x) for table in tables for x in table.select_dtypes("number").to_numpy().flat]
    for score in set(re.findall(r"\b0\.\d{2,}\b", README)):
        digits = len(score) - 2
        assert any(f"{x:.{digits}f}" == score for x in known), score


@pytest.mark.parametrize("study", ["ablation_embedding", "ablation_embedding_sets"])
def test_findings_keep_the_result_of_each_arm_that_left(study):
    section = PAGES[-1].read_text(encoding="utf-8").partition("## What left, and why")[2]
    section = section.partition("\n## ")[0]
    files = [ROOT / "figures" / study / name for name in ("pairwise.csv", "left.csv")]
    table = pd.concat([pd.read_csv(file) for file in files if file.exists()])
    table = table.query("metric == 'micro_f1'")
    arms = {file.stem for file in (ROOT / "params" / study).glob("*.yaml")}
    left = table[~table["arm_a"].isin(arms)]
    assert len(left)
    for _, row in left.iterrows():
        assert f"{row.delta:+.3f} ({row.low:+.3f} to {row.high:+.3f})" in section


def test_nothing_outside_tests_reads_data_that_no_outsider_has():
    kinds = ("Makefile", "Snakefile", "*.md", "*.yaml", "*.py", "*.ipynb", "*.html")
    folders = ("params", "lib", "notebooks", "docs", "figures", "data")
    files = [file for kind in kinds for file in ROOT.glob(kind)]
    files += [file for folder in folders for kind in kinds for file in (ROOT / folder).rglob(kind)]
    assert len(files) > 300
    assert not [file for file in files if "../shared" in file.read_text(encoding="utf-8")]


def test_every_requirement_but_torch_is_locked_with_hashes():
    pins = re.findall(r"^(?:#: )?([\w.-]+==\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([\w.-]+==\S+) \\\n    --hash=sha256:\w{64}", lock, re.M)
    assert sorted(pin for pin in pins if not pin.startswith("torch==")) == sorted(locked)


def test_lint_reads_every_file_of_lib():
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {str(file) for file in (ROOT / "lib").rglob("*.py")} <= set(shown.split("\n"))
    assert str(ROOT / "figures") not in shown  # executed copies of notebooks
