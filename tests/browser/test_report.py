"""Reports in Chromium: no request, no error, nothing wider than a telephone, accessible.

`make browser` runs these tests. Screenshots are beside each page, in pytest's temporary folder.
"""

import base64
import importlib.resources
import json
import subprocess
import sys

import pytest
from made_study import compare, make_study

from lib.storage import ROOT

pytestmark = pytest.mark.browser
WIDTHS, SCHEMES = (1400, 400), ("light", "dark")
TWELVE = ["embedding", "tfidf", *(f"arm_{i}" for i in range(9)), "instruction"]
STUDIES = {
    "twelve arms": (TWELVE, {"seeds": (0, 1)}),
    "learning curves": (["embedding", "instruction"], {"seeds": (0, 1), "sizes": (16, 24, 40)}),
    "label sets": (["embedding", "instruction"], {"multi_label": True}),
}


@pytest.fixture(scope="module", params=STUDIES)
def page(request, tmp_path_factory):
    """The report of a study, as `make study` writes it."""
    arms, options = STUDIES[request.param]
    folder = make_study(tmp_path_factory.mktemp("study"), arms, **options)
    sized = [f"{arm}@{size}" for arm in arms for size in options.get("sizes", ())]
    compare(folder, arms=sized or arms)
    command = ["-m", "jupyter", "nbconvert", "--to", "lib.page.ReportExporter", folder / "05.ipynb"]
    subprocess.run([sys.executable, *command, "--output", "report"], check=True, cwd=ROOT)
    return folder / "report.html"


def show(browser, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def test_a_report_asks_for_nothing_and_runs_nothing(browser, page, record_property):
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"].endswith("WillBeSent")]
    assert page.as_uri() in sent
    assert {url.partition(":")[0] for url in sent} <= {"file", "data"}
    assert [url for url in sent if url.startswith("file:")] == [page.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.title == "Head or prompt?"  # documents try to change it
    loaded = browser.execute_script("return performance.getEntriesByType('navigation')[0].duration")
    record_property("milliseconds", loaded)
    print(f"\n{page}: {page.stat().st_size / 2**20:.1f} MiB, opened in {loaded:,.0f} ms")


def test_a_report_is_accessible_and_as_wide_as_the_screen(browser, page):
    axe = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    browser.get(page.as_uri())
    browser.execute_script(axe.read_text(encoding="utf-8"))
    browser.execute_script("for (const x of document.querySelectorAll('details')) x.open = true")
    for width in WIDTHS:
        for scheme in SCHEMES:
            show(browser, width, scheme)
            drawn = browser.execute_script("return document.documentElement.scrollWidth")
            assert drawn <= width, (width, scheme)
            found = browser.execute_async_script("axe.run().then(arguments[0])")
            bad = [
                (x["impact"], x["id"], x["nodes"][0]["html"])
                for x in found["violations"]
                if x["impact"] in ("serious", "critical")
            ]
            assert not bad, (width, scheme)


@pytest.mark.parametrize("scheme", [*SCHEMES, "grey"])
def test_a_report_has_its_verdict_on_the_first_screen(browser, page, scheme):
    """Also in grey, where words and signs say what colours do."""
    grey = {"type": "achromatopsia" if scheme == "grey" else "none"}
    browser.execute_cdp_cmd("Emulation.setEmulatedVisionDeficiency", grey)
    browser.get(page.as_uri())
    for width in WIDTHS:
        show(browser, width, "light" if scheme == "grey" else scheme)
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        page.with_name(f"{scheme}-{width}.png").write_bytes(base64.b64decode(picture))
        end = browser.execute_script(
            "return document.querySelector('blockquote').getBoundingClientRect().bottom"
        )
        assert end < 900
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.mark')]"
        ".map(x => [x.closest('tr').className, x.textContent])"
    )
    assert len({words for _, words in marks}) == len({kind for kind, _ in marks})
    browser.execute_cdp_cmd("Emulation.setEmulatedVisionDeficiency", {"type": "none"})
