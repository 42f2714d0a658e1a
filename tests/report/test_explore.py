"""What the exploration shows, on documents made so that the answer is known."""

import matplotlib
import numpy as np
import pandas as pd
import plotly.io
import pytest
from datasets import Dataset, DatasetDict

from lib.data.labels import LabelSpace
from lib.data.near_duplicates import find_duplicates
from lib.report import browse, explore

matplotlib.use("Agg")


def make_splits(num_labels=3, per_label=4, multi=False):
    """Documents "topic<c> filler": with `multi`, those of label c also have label 0."""
    rows = [(f"topic{c:03d} and filler number {i}", c) for i in range(per_label) for c in
            range(num_labels)]  # fmt: skip
    split = Dataset.from_dict(
        {
            "id": [f"d-{i}" for i in range(len(rows))],
            "text": [text for text, _ in rows],
            "labels": [sorted({f"l{c:03d}", "l000"} if multi else {f"l{c:03d}"}) for _, c in rows],
        }
    )
    return DatasetDict(dict.fromkeys(("train", "validation", "test"), split))


def test_distinctive_words_are_those_that_only_the_label_has():
    splits = make_splits(per_label=20)
    space = LabelSpace.from_splits(splits)
    y = space.encode(splits["train"]["labels"])
    table = explore.distinctive_words(splits["train"]["text"], y, space.names)
    assert table["label"].tolist() == ["l000", "l001", "l002"]
    assert table["documents"].tolist() == [20, 20, 20]
    assert table["words"].tolist() == ["topic000", "topic001", "topic002"]  # and no filler


def test_a_word_of_a_single_document_tells_nothing_however_often_it_stands_there():
    texts = ["cocoa " * 50] + ["the price rose"] * 30
    y = np.array([[True, False]] + [[False, True]] * 30)
    assert explore.distinctive_words(texts, y, ["a", "b"])["words"].tolist()[1] == ""


def test_distinctive_words_agree_with_the_equations_of_monroe_et_al(monkeypatch):
    texts = ["apple pear", "apple", "apple plum", "pear", "pear plum", "plum"]
    y = np.array([[1, 0]] * 3 + [[0, 1]] * 3, dtype=bool)
    counts = {"apple": (3, 0), "pear": (1, 2), "plum": (1, 2)}
    prior, n = 2.0, (5, 4)
    monkeypatch.setattr(explore, "PRIOR", prior)
    a, mass = prior * 3 / 6, prior * 9 / 6  # the rate of a document times two documents
    (i, j) = counts["apple"]
    odds = [(k + a) / (m + mass - k - a) for k, m in zip((i, j), n, strict=True)]
    z = np.log(odds[0] / odds[1]) / np.sqrt(1 / (i + a) + 1 / (j + a))
    for least, expected in ((z - 1e-9, "apple"), (z + 1e-9, "")):
        monkeypatch.setattr(explore, "MIN_Z", least)
        table = explore.distinctive_words(texts, y, ["fruit", "other"])
        assert table["words"][0] == expected


@pytest.mark.parametrize("texts", [["?!", "..."] * 4, ["word", "word"] * 4])
def test_texts_that_tell_nothing_give_empty_terms(texts):
    y = np.tile(np.eye(2, dtype=bool), (4, 1))
    assert explore.distinctive_words(texts, y, ["a", "b"])["words"].tolist() == ["", ""]


def test_distinctive_words_of_scripts_with_marks_are_whole_words():
    texts = [f"यह {word} है {i}" for i in range(12) for word in ("चुनाव", "गेंद")]
    y = np.array([[True, False], [False, True]] * 12)
    table = explore.distinctive_words(texts, y, ["politics", "sport"])
    assert table["words"].tolist() == ["चुनाव", "गेंद"]


def test_texts_without_spaces_are_told_apart_too(monkeypatch):
    monkeypatch.setattr(explore, "MAX_WORDS", 50)
    texts = ["国际石油价格今天再次大幅上涨了许多" + "一二三四五六七八"] * 9
    texts += ["中央银行决定不再提高短期利率的水平" + "一二三四五六七八"] * 9
    y = np.repeat(np.eye(2, dtype=bool), 9, axis=0)
    table = explore.distinctive_words(texts, y, ["oil", "rates"])
    assert "石油" in table["words"][0]
    assert "利率" in table["words"][1]


def test_cooccurrence_is_the_share_of_the_rows_documents():
    y = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=bool)
    expected = [[1, 0.5, 0.25, 0], [1, 1, 0.5, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(explore.cooccurrence(y), expected)


@pytest.mark.parametrize("num_labels", [2, 600])
@pytest.mark.parametrize("multi", [False, True])
def test_figures_keep_to_a_page_and_few_ticks_however_many_labels(num_labels, multi):
    splits = make_splits(num_labels, per_label=2, multi=multi)
    space = LabelSpace.from_splits(splits)
    y = space.encode(splits["train"]["labels"])
    figures = [
        explore.plot_class_counts(splits, space),
        explore.plot_labels_per_document(splits),
        explore.plot_cooccurrence(y, space.names),
        explore.plot_token_lengths([0, 5, 700], 96),
    ]
    for figure in figures:
        assert max(figure.get_size_inches()) < 13
        assert all(len(ax.get_xticks()) <= 45 for ax in figure.axes)
        matplotlib.pyplot.close(figure)


def test_figures_draw_the_counts_of_labels_and_tokens():
    splits = make_splits(3, per_label=2, multi=True)
    space = LabelSpace.from_splits(splits)
    y = space.encode(splits["train"]["labels"])
    (ax,) = explore.plot_class_counts(splits, space).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[6, 2, 2]] * 3  # a line per split
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["l000", "l001", "l002"]
    (ax,) = explore.plot_labels_per_document(splits).axes
    shares = [line.get_xydata().tolist() for line in ax.lines]
    assert shares == [[[1, pytest.approx(1 / 3)], [2, pytest.approx(2 / 3)]]] * 3
    cells = explore.plot_cooccurrence(y, space.names).axes[0].collections[0].get_array()
    assert np.ma.getmaskarray(cells).diagonal().all()
    assert cells[0, 1] == pytest.approx(1 / 3)  # of the documents of l000
    assert cells[1, 0] == 1
    (ax,) = explore.plot_token_lengths([0, 5, 700], 96).axes
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert ax.lines[0].get_xdata() == [96, 96]
    matplotlib.pyplot.close("all")


def test_the_map_has_a_point_for_each_document_and_escapes_what_it_shows():
    splits = make_splits(12, per_label=3)
    documents = splits["train"].map(lambda row: {"text": f"<b onclick=x>{row['text']}</b>"})
    embeddings = np.random.default_rng(0).normal(size=(len(documents), 8)).astype(np.float32)
    points = browse.project(embeddings, seed=0)
    assert points.shape == (36, 2)
    figure = browse.plot_map(points, documents)
    assert sum(len(trace.x) for trace in figure.data) == 36
    assert len(figure.data) == 10  # nine labels and the others
    assert len({trace.marker.symbol for trace in figure.data}) == 10
    assert figure.data[0].name == "l000"
    hover = [text for trace in figure.data for text in trace.hovertext]
    assert not any("<b " in text or "</b>" in text for text in hover)
    assert all("&lt;b onclick=x&gt;" in text for text in hover)


def test_a_document_of_several_labels_is_drawn_as_the_rarest_shown():
    documents = make_splits(12, per_label=3, multi=True)["train"]
    figure = browse.plot_map(np.zeros((36, 2)), documents)
    assert [len(trace.x) for trace in figure.data] == [12, *[3] * 8]  # l000: its own, and l009 on


def test_a_label_called_other_is_not_taken_for_the_rest(monkeypatch):
    monkeypatch.setattr(browse, "MAX_COLOURED", 1)
    documents = Dataset.from_dict(
        {"id": list("abc"), "text": ["t"] * 3, "labels": [["other"], ["other"], ["rare"]]}
    )
    figure = browse.plot_map(np.zeros((3, 2)), documents)
    assert [(trace.name, len(trace.x)) for trace in figure.data] == [("other", 2), ("other", 1)]


def test_maps_carry_no_button_that_uploads_them(monkeypatch):
    monkeypatch.setattr(plotly.io.renderers, "default", plotly.io.renderers.default)
    browse.draw_maps_locally()
    bundle = browse.plot_map(np.zeros((12, 2)), make_splits()["train"])._repr_mimebundle_()
    assert list(bundle) == ["application/vnd.plotly.v1+json"]
    config = bundle["application/vnd.plotly.v1+json"]["config"]
    assert config["showSendToCloud"] is False
    assert config["plotlyServerURL"] == ""


def test_a_document_is_shown_escaped_with_the_cut_part_apart(tokenizer):
    document = {"id": "<i>", "labels": ["a&b"], "text": "one two <script>alert(1)</script>"}
    shown = browse.document_html(document, tokenizer=tokenizer, max_length=2)
    assert "<script" not in shown
    assert "<i>" not in shown
    assert "a&amp;b" in shown
    assert 'one two<span style="opacity: 0.45"> &lt;script' in shown
    total = explore.count_tokens(tokenizer, [document["text"]])[0]
    assert f"{total - 2} of {total} tokens are cut" in shown
    whole = browse.document_html(document, tokenizer=tokenizer, max_length=100)
    assert "</script&gt;</span>" not in whole
    assert f"0 of {total} tokens are cut" in whole


def test_the_browser_steps_through_the_documents_of_a_label(tokenizer):
    splits = make_splits()
    splits["test"] = splits["test"].select([0])
    box = browse.browse(splits, tokenizer=tokenizer, max_length=96)
    split, label = box.children[0].children
    _, found, back, forth = box.children[1].children
    shown = box.children[2]
    assert found.value == "of 12"
    assert "d-0" in shown.value
    label.value = "l001"
    assert found.value == "of 4"
    assert "d-1" in shown.value
    forth.click()
    assert "d-4" in shown.value
    back.click()
    back.click()  # stays at the first
    assert "d-1" in shown.value
    split.value = "test"  # has no document of this label
    assert found.value == "of 0"
    assert shown.value == ""
    label.value = None
    assert "d-0" in shown.value


def test_duplicates_are_beside_their_twin(monkeypatch):
    monkeypatch.setattr(browse, "TWIN_CHARACTERS", 20)
    text = "cocoa prices rose in ghana after the dry season came to an end in march " * 9
    splits = DatasetDict(
        {
            name: Dataset.from_dict({"id": [f"{name}-1"], "text": [body], "labels": [["a"]]})
            for name, body in (("train", text), ("validation", "nothing\nelse"), ("test", text))
        }
    )
    table = browse.side_by_side(splits, find_duplicates(splits))
    assert table.loc[0, ["id", "other_id", "similarity"]].tolist() == ["test-1", "train-1", 1.0]
    assert table["text"][0] == table["other_text"][0] == "cocoa prices rose i…"
    nothing = pd.DataFrame(columns=["id", "split", "other_id", "other_split", "similarity"])
    assert browse.side_by_side(splits, nothing).empty
