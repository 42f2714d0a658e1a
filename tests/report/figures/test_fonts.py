"""Label names in any script: a font that has them where one is installed, else one line."""

import logging
import warnings
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from lib.data.labels import LabelSpace
from lib.report import save_figure, set_plot_style
from lib.report.explore import plot_class_counts, plot_cooccurrence
from lib.report.figures import fonts
from lib.report.figures.details import plot_class_f1, plot_confusion
from lib.report.figures.fonts import cover, tick_labels

CHINESE, HINDI, OLD = "数学", "हिन्दी", "\U00010a00\U0001e900"  # the last: Kharoshthi, Adlam
NAMES = [CHINESE, HINDI, OLD, "$5 and $9"]
Y_TRUE = np.eye(4, dtype=bool)[np.arange(40) % 4]


def build_font(file, characters, *, outline=True, cff=False):
    """A font whose glyphs are squares, or nothing."""

    def square(pen):
        if outline:
            pen.moveTo((100, 0))
            for point in ((100, 700), (700, 700), (700, 0)):
                pen.lineTo(point)
            pen.closePath()
        return pen

    names = [".notdef", *(f"u{ord(c):05X}" for c in characters)]
    builder = FontBuilder(1000, isTTF=not cff)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):05X}" for c in characters})
    if cff:
        glyphs = {name: square(T2CharStringPen(800, None)).getCharString() for name in names}
        builder.setupCFF(file.stem, {}, glyphs, {})
    else:
        builder.setupGlyf({name: square(TTGlyphPen(None)).glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": file.stem, "styleName": "Regular", "psName": file.stem})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(file)


@pytest.fixture
def install(monkeypatch, tmp_path):
    """The fonts that matplotlib brings along, and those that are built: `install(name, "数")`."""
    own = [e for e in fontManager.ttflist if "mpl-data" in e.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: list(map(str, tmp_path.glob("*.?tf"))))
    fontManager._findfont_cached.cache_clear()
    fonts._report.cache_clear()

    def build(name, characters, **options):
        build_font(tmp_path / f"{name}.ttf", characters, **options)

    with plt.rc_context():
        set_plot_style()
        plt.rcParams["savefig.dpi"] = 40
        yield build
    plt.close("all")
    fontManager._findfont_cached.cache_clear()


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def figures():
    """Every figure that draws label names."""
    preds = {"tfidf": Y_TRUE[None]}
    rows = [{"id": str(i), "text": "a", "labels": [NAMES[i % 4]]} for i in range(8)]
    splits = DatasetDict(
        {name: Dataset.from_list(rows) for name in ("train", "validation", "test")}
    )
    yield plot_class_f1(Y_TRUE, preds, NAMES)
    yield plot_confusion(Y_TRUE, preds, NAMES)
    yield plot_cooccurrence(Y_TRUE, NAMES)
    yield plot_class_counts(splits, LabelSpace(tuple(NAMES), tuple(NAMES)))


def families_of(fig, word):
    texts = [t for t in fig.findobj(plt.Text) if t.get_text().startswith(word)]
    assert texts
    return {family for text in texts for family in text.get_fontfamily()}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("cff", [False, True], ids=["TrueType", "CFF"])
def test_every_figure_finds_an_installed_font_for_every_script(install, tmp_path, caplog, cff):
    install("Kanji Sans", CHINESE, cff=cff)
    install("Nagari Sans", "".join(set(HINDI)), cff=cff)
    install("Old Sans", OLD, cff=cff)
    for number, fig in enumerate(islice(figures(), 1 if cff else None)):
        assert "Kanji Sans" in families_of(fig, CHINESE)
        assert "Nagari Sans" in families_of(fig, HINDI)
        assert families_of(fig, "\\$5") >= {"sans-serif"}  # no mathematics, and not in squares
        save_figure(fig, tmp_path / "figures", f"f{number}", "What it shows.")
        assert (tmp_path / f"figures/f{number}.caption.md").read_text() == "What it shows.\n"
    assert not caplog.records


@pytest.mark.usefixtures("quiet")
def test_what_no_font_has_is_named_in_one_line_and_in_the_caption(install, tmp_path, caplog):
    install("Nagari Sans", "".join(set(HINDI)))
    for number, fig in enumerate(figures()):
        save_figure(fig, tmp_path / "figures", f"f{number}", "What it shows.")
        caption = (tmp_path / f"figures/f{number}.caption.md").read_text(encoding="utf-8")
        assert "What it shows. Boxes replace characters that no installed font has: " in caption
        assert CHINESE in caption
        assert "cjk" in caption
        assert "devanagari" not in caption
        assert len(caption.splitlines()) == 1
    said = {record.message for record in caplog.records}
    assert len(caplog.records) == len(said) <= 2  # which differ in the order of the labels
    assert all(
        r.levelno == logging.WARNING and "install a font" in r.message for r in caplog.records
    )


def test_a_font_of_coloured_pictures_alone_or_a_damaged_one_is_none(install, tmp_path):
    install("Pictures", CHINESE, outline=False)
    (tmp_path / "Damaged.ttf").write_bytes(b"no font")
    tick_labels([CHINESE])
    assert plt.rcParams["font.family"] == ["sans-serif"]


def test_one_font_that_has_all_is_taken_once_and_latin_needs_none(install):
    install("All Sans", CHINESE + HINDI)
    tick_labels(["Müller & Søn", "Ελλάδα", "e\u0301", "a\u200db\ufe0f\u00ad"])
    assert plt.rcParams["font.family"] == ["sans-serif"]
    for _ in range(2):
        tick_labels([CHINESE, HINDI])
        assert plt.rcParams["font.family"] == ["sans-serif", "All Sans"]


def test_titles_and_other_texts_of_a_saved_figure_are_covered_too(install):
    fig, ax = plt.subplots()
    ax.set_title("plain")
    ax.set_xlabel(CHINESE)
    install("Kanji Sans", CHINESE)
    assert cover(fig) == ""
    assert ax.xaxis.label.get_fontfamily() == ["sans-serif", "Kanji Sans"]
    ax.set_ylabel(OLD)
    assert cover(fig) == OLD


def test_names_are_shortened_and_stand_on_one_line():
    assert tick_labels(["a\tb\n c", "x" * 40], 8) == ["a b c", "xxxxxxx…"]
    assert tick_labels(["$1"]) == [r"\$1"]
