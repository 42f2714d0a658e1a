"""Notebooks in JupyterLab: one changed line, "Run All Cells", no error.

`make browser` runs these tests. A screenshot of each notebook is beside it, in pytest's temporary
folder.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from lib.storage import ROOT

pytestmark = pytest.mark.browser
NOTEBOOKS = ("01_explore_data", "02_baselines", "03_finetune_embedding", "05_compare", "07_try_it")
RUN_ALL = """
const app = window.jupyterapp, panel = app.shell.currentWidget
panel.context.ready.then(() => panel.sessionContext.ready)
  .then(() => app.commands.execute('notebook:run-all-cells'))
  .then(() => panel.context.save())
  .then(() => window.ended = "saved", error => window.ended = String(error))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a notebook needs, with two arms of the smoke study."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("lib", "notebooks", "params/smoke"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "figures").mkdir()
    shutil.copy(ROOT / "figures/paper.csv", folder / "figures")
    arms = {"common", "embedding", "tfidf"}
    for file in (folder / "params/smoke").glob("*.yaml"):
        if file.stem not in arms:
            file.unlink()
    return folder


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    """Address of a JupyterLab on that copy's notebooks, with its own settings."""
    own = tmp_path_factory.mktemp("jupyter")
    settings = {f"JUPYTER_{x}": str(own / x.lower()) for x in ("CONFIG_DIR", "RUNTIME_DIR")}
    settings |= {"JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
                 "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
                 "PYTHONPATH": str(project)}  # fmt: skip
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--port=0", "--allow-root",
               "--expose-app-in-browser", str(project / "notebooks")]  # fmt: skip
    with (own / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        yield _address(own / "runtime_dir", server)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()


def _address(runtime, server):
    for _ in range(600):
        for file in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(OSError, ValueError):
                said = json.loads(file.read_text())
                token = f"token={said['token']}"
                urllib.request.urlopen(f"{said['url']}api/status?{token}")
                return lambda path: f"{said['url']}lab/tree/{path}?reset&{token}"
        assert server.poll() is None, "JupyterLab has stopped"
        time.sleep(0.2)
    raise AssertionError("JupyterLab has not started")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_one_changed_line_is_enough(browser, lab, project, name):
    """In this order: 05 and 07 read the runs of 02 and 03."""
    file = project / "notebooks" / f"{name}.ipynb"
    notebook = file.read_text(encoding="utf-8")
    assert notebook.count('study: str = \\"scratch\\"') == 1
    file.write_text(notebook.replace('str = \\"scratch\\"', 'str = \\"smoke\\"'), encoding="utf-8")

    browser.get(lab(file.name))
    _wait(browser, "return window.jupyterapp?.shell.currentWidget?.sessionContext !== undefined")
    browser.execute_script(RUN_ALL)
    assert _wait(browser, "return window.ended") == "saved"

    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    errors = [x["evalue"] for x in outputs if x["output_type"] == "error"]
    assert not errors
    assert all(cell["execution_count"] for cell in code)
    assert any("text/html" in output.get("data", {}) for output in outputs)
    if name == "07_try_it":
        _wait(browser, "return document.querySelectorAll('.jupyter-widgets').length")
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    file.with_suffix(".png").write_bytes(base64.b64decode(picture))


def _wait(browser, script):
    for _ in range(3000):
        if found := browser.execute_script(script):
            return found
        time.sleep(0.2)
    raise AssertionError(script)
