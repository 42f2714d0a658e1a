import pandas as pd
import pytest
from datasets import Dataset

from lib.report.disagreements import choose_pair, disagreements_html, find_disagreements

TEXTS = ["<script>alert(1)</script> & $x$", "both right", "only the prompt", "both wrong"]
DOCUMENTS = Dataset.from_dict({"id": ["w", "x", "y", "z"], "text": TEXTS})


def predictions(answers, ids=("w", "x", "y", "z"), scores=(0.9, 0.8, 0.7, 0.6)):
    columns = {"id": ids, "y_true": [["a"], ["a"], ["a"], ["a"]], "y_pred": answers}
    return pd.DataFrame(columns | {"scores": [[s, 1 - s] for s in scores]})


HEAD = predictions([["a"], ["a"], ["<b>"], ["b"]])
PROMPT = predictions([[], ["a"], ["a"], ["b"]])


def test_documents_are_those_that_one_arm_gets_right_alone():
    table = find_disagreements(DOCUMENTS, ("head", HEAD), ("prompt", PROMPT))
    assert table[["right", "id"]].values.tolist() == [["head", "w"], ["prompt", "y"]]
    assert table.loc[0, ["head", "prompt", "true"]].tolist() == ["a", "no label", "a"]
    assert table["head score"].tolist() == [0.9, 0.7]


def test_the_surest_errors_come_first():
    wrong = predictions([["b"]] * 4, scores=(0.6, 0.9, 0.7, 0.8))
    right = predictions([["a"]] * 4)
    table = find_disagreements(DOCUMENTS, ("head", right), ("prompt", wrong))
    assert table["id"].tolist() == ["x", "z", "y", "w"]


def test_nothing_in_a_document_becomes_html_or_a_formula():
    table = find_disagreements(DOCUMENTS, ("head", HEAD), ("<i>", PROMPT))
    page = disagreements_html(table)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x$" in page
    assert "&lt;b&gt;" in page
    assert not any(tag in page for tag in ("<script", "<b>", "<i>"))
    assert 'class="tex2jax_ignore mathjax_ignore"' in page


def test_the_page_stays_small_and_names_what_it_leaves_out():
    ids = [str(number) for number in range(5000)]
    documents = Dataset.from_dict({"id": ids, "text": ["word & " * 999] * 5000})
    right = pd.DataFrame({"id": ids, "y_true": [["a"]] * 5000})
    right = right.assign(y_pred=right["y_true"], scores=[[1.0]] * 5000)
    wrong = right.assign(y_pred=[["b"]] * 5000)
    page = disagreements_html(find_disagreements(documents, ("one", right), ("two", wrong)))
    assert len(page) < 2**20 / 4
    assert "Only one is right, two is not: 5,000 documents, the first 30 shown" in page
    assert "Only two is right, one is not: 0 documents" in page
    assert page.count("<details>") == 2
    assert page.count("word &amp;") > 30 * 40  # pandas has not cut the cells


def test_predictions_of_other_documents_are_refused():
    other = predictions([["a"]] * 4, ids=("w", "x", "z", "y"))
    with pytest.raises(ValueError, match="prompt: its predictions are of other documents"):
        find_disagreements(DOCUMENTS, ("head", HEAD), ("prompt", other))


def test_head_and_prompt_are_read_first_and_else_the_two_best():
    assert choose_pair(["tfidf", "instruction", "embedding"]) == ("embedding", "instruction")
    assert choose_pair(["tfidf", "embedding", "frozen"]) == ("tfidf", "embedding")
    with pytest.raises(ValueError, match="a disagreement needs two"):
        choose_pair(["tfidf"])
