"""The audit: what it finds in planted and real documents, and what it must not report."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from lib.data import audit
from lib.data.near_duplicates import MAX_BUCKET, find_duplicates
from lib.errors import DataError
from lib.storage import ROOT

TREC = ROOT.parent / "shared" / "data" / "trec6"
CLEAN = [
    "Où est l'élève ? « Ça va », dit-il : « voilà ! » À Noël, 20 °C et 3 € – l’été… Œuvre, maïs.",
    "Größe, Übermaß, „Ärger“, der Buchstabe „Ä“ und „Ö“; ÄÖÜ, Straße – 5 µm, § 3, ½ ‚so‘.",
    "今天天气很好，我们去公园散步吧。「你好！」",
    "Η γρήγορη αλεπού πηδάει πάνω από το σκυλί· «Ναι», είπε. Ά ΐ ΰ ώ",
    "Съешь ещё этих мягких французских булок… «Да» – нет.",
    "A IRMÃ’S, “MAÇÔ e «PÃO»; não, São Paulo, CORAÇÃO… Coração",
    "Đường phố Hà Nội; în România, ÎN ROMÂNIA; Æsir, það er; İstanbul’da kâr",
    "tab\there\nnew line\r\nand an emoji 🎉 ☕ ™ ± £ © ®",
]
DAMAGED = [
    "cafÃ© au lait",
    "itâ€™s late",
    "GrÃ¶ÃŸe",
    "voilÃ\xa0",
    "Ã–sterreich",
    "20 Â°C",
    "5 Â£",
    "lost \ufffd here",
    "nice ðŸŽ‰",
    "ÐŸÑ€Ð¸Ð²ÐµÑ‚",
    "it\u00e2\x80\x99s",
    *(text.encode().decode("latin-1") for text in CLEAN),
]


def make_splits(**parts):
    """Splits of texts, or of (text, labels) or (text, labels, group) tuples."""
    splits = DatasetDict()
    for name, rows in parts.items():
        rows = [(row, ["x"]) if isinstance(row, str) else row for row in rows]
        columns = {
            "id": [f"{name}-{i}" for i in range(1, len(rows) + 1)],
            "text": [row[0] for row in rows],
            "labels": [row[1] for row in rows],
        }
        if len(rows[0]) == 3:
            columns["group"] = [row[2] for row in rows]
        splits[name] = Dataset.from_dict(columns)
    return splits


def findings(splits, **options):
    return audit(splits, **options).set_index("check")


def random_words(count, seed):
    return [f"w{i}" for i in np.random.default_rng(seed).integers(0, 5000, count)]


def test_clean_splits_have_no_findings():
    texts = [" ".join(random_words(30, seed)) for seed in range(15)]
    found = audit(make_splits(train=texts[:5], validation=texts[5:10], test=texts[10:]))
    assert found.empty
    assert list(found.columns) == ["severity", "check", "count", "examples", "remedy"]


@pytest.mark.skipif(not TREC.is_dir(), reason="TREC is not at hand")
def test_ten_trec_test_questions_also_stand_in_train():
    frames = {n: pd.read_json(TREC / f"{n}.jsonl", lines=True) for n in ("train", "test")}
    parts = {n: list(zip(f["text"], f["labels"], strict=True)) for n, f in frames.items()}
    pairs = find_duplicates(make_splits(**parts))
    texts = {n: f.set_axis([f"{n}-{i}" for i in range(1, len(f) + 1)]) for n, f in frames.items()}
    test = texts["test"].loc[pairs["id"], "text"].tolist()
    train = texts["train"].loc[pairs["other_id"], "text"].tolist()
    verbatim = sum(a == b for a, b in zip(test, train, strict=True))
    assert (len(pairs), verbatim) == (11, 10)  # the eleventh differs in case only
    found = findings(make_splits(**parts))
    assert found.loc["text is in train and in a held-out split", "count"] == 11


@given(st.sets(st.integers(3, 56), min_size=1, max_size=2), st.integers(0, 999))
def test_two_words_changed_in_sixty_are_found_and_an_unrelated_text_is_not(places, seed):
    train = random_words(60, seed)
    changed = ["new" if i in places else word for i, word in enumerate(train)]
    unrelated = " ".join(random_words(60, seed + 1000))
    splits = make_splits(
        train=[unrelated[::-1], " ".join(train)], test=[unrelated, " ".join(changed)]
    )
    [pair] = find_duplicates(splits).to_dict(orient="records")
    assert (pair["id"], pair["other_id"], pair["other_split"]) == ("test-2", "train-2", "train")
    common = 60 - len({i - j for i in places for j in range(3)})
    assert pair["similarity"] == pytest.approx(common / (120 - common))


def test_exact_duplicates_are_not_counted_as_near_duplicates():
    long = " ".join(random_words(60, 0))
    found = findings(make_splits(train=[long, "a b"], test=[long.upper(), f"{long} end", "c d"]))
    assert found.loc["text is in train and in a held-out split", "examples"] == "test-1"
    near = found.loc["near-duplicate is in train and in a held-out split"]
    assert (near["count"], near["examples"]) == (1, "test-2 ~ train-1")


def test_validation_leaks_into_test():
    splits = make_splits(train=["a b c"], validation=["d e f", "g h"], test=["D  e f", "i"])
    found = findings(splits)
    assert found.loc["text is in validation and in test", "severity"] == "error"
    assert find_duplicates(splits)["other_split"].tolist() == ["validation"]


@pytest.mark.parametrize(
    ("held_out", "similarity"),
    [("Yes!", [1.0]), ("no", []), ("yes sir", []), ("!!!", []), ("", []), ("我们 去公园。", [1.0])],
)
def test_short_and_unspaced_texts_are_near_duplicates_only_of_the_same_words(held_out, similarity):
    splits = make_splits(train=["yes", "no sir", "?!", "", "我们去公园"], test=[held_out])
    assert find_duplicates(splits)["similarity"].tolist() == similarity


def test_a_text_is_found_among_thousands_of_one_template():
    template = random_words(80, 0)
    texts = [" ".join(template + random_words(40, seed)) for seed in range(1, 20 * MAX_BUCKET)]
    splits = make_splits(train=texts, test=[f"{texts[-1]} end", " ".join(template)])
    [pair] = find_duplicates(splits).to_dict(orient="records")
    assert pair["other_id"] == f"train-{len(texts)}"


def test_repeats_and_contrary_labels():
    train = [("a  b", ["x"]), ("A b", ["y"]), ("c", ["x", "y"]), ("c", ["y", "x"])]
    found = findings(make_splits(train=train, test=[("d", ["x"]), ("e", ["y"])]))
    assert found.loc["text repeats within its split", "examples"] == "train-2, train-4"
    assert found.loc["the same text has different labels", "examples"] == "train-1"


def test_groups_that_cross_splits():
    splits = make_splits(
        train=[("a", ["x"], "g1"), ("b", ["x"], ""), ("c", ["x"], None)],
        validation=[("d", ["x"], "g2"), ("e", ["x"], "g1")],
        test=[("f", ["x"], "g2"), ("g", ["x"], ""), ("h", ["x"], None)],
    )
    found = findings(splits)
    assert found.loc["group is in train and in a held-out split", "examples"] == "g1"
    assert found.loc["group is in validation and in test", "examples"] == "g2"
    with pytest.raises(DataError, match="group is in train and in a held-out split: 1, such as g1"):
        audit(splits, on_leakage="error")


def test_leakage_raises_one_line_with_count_example_and_remedy():
    splits = make_splits(train=["a b", "c"], test=["A b", "c", "d"])
    with pytest.raises(DataError) as raised:
        audit(splits, on_leakage="error")
    message = str(raised.value)
    assert "\n" not in message
    assert "text is in train and in a held-out split: 2, such as test-1; drop them" in message
    audit(make_splits(train=["a b", "a b"], test=["d"]), on_leakage="error")


def test_labels_without_documents_rare_labels_and_imbalance():
    train = [(f"t{i}", ["big"]) for i in range(60)] + [(f"u{i}", ["mid"]) for i in range(6)]
    train += [("v", ["rare"])]
    found = findings(make_splits(train=train, test=[("w", ["big"]), ("x", ["new"])]))
    assert found.loc["label has no training document", "examples"] == "new"
    assert found.loc["label has no test document", "examples"] == "mid, rare"
    assert found.loc["label has fewer than 5 training documents", "examples"] == "rare"
    remedy = found.loc["label is far more frequent than others", "remedy"]
    assert remedy.startswith("'big' is on 90% of the training documents, 10 times")
    assert found["severity"].tolist() == ["error", "warning", "note", "note"]


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_absent_and_empty_splits_are_no_finding(name):
    splits = make_splits(**{name: [(f"t{i}", ["x"]) for i in range(9)]})
    assert audit(splits).empty
    empty = splits[name].select([])
    assert audit(splits | {n: empty for n in ("train", "test") if n != name}).empty


def test_own_label_counts_whole_words_of_four_characters():
    test = [("the corn-oil price", ["corn_oil"]), ("Trade talks", ["trade"])]
    test += [("traders met", ["trade"]), ("wheat", ["w"]), ("corn-oil", ["trade"])]
    found = findings(make_splits(test=test))
    own = found.loc["text contains its own label"]
    assert (own["count"], own["examples"]) == (1, "test-2")
    assert "'trade' is in 33% of its documents" in own["remedy"]


@pytest.mark.parametrize(("max_length", "severity"), [(2, "warning"), (3, "note")])
def test_texts_longer_than_max_length(max_length, severity):
    splits = make_splits(train=["a b c", "d e f g"], test=["h"])
    found = findings(
        splits, max_length=max_length, count_tokens=lambda texts: [len(x.split()) for x in texts]
    )
    row = found.loc[f"text is longer than is read ({max_length} tokens)"]
    assert row["severity"] == severity
    assert row["remedy"].startswith("67% are cut" if severity == "warning" else "33% are cut")


def test_empty_and_huge_texts():
    found = findings(make_splits(train=["a", " \n", ""], test=["b" * 1_000_001, ""]))
    assert found.loc["text is empty", "examples"] == "train-2, train-3, test-2"
    assert found.loc["text has more than 1,000,000 characters", "examples"] == "test-1"
    assert "text is in train and in a held-out split" not in found.index


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_text_is_found(text):
    assert "text has damaged characters" in findings(make_splits(train=[text])).index


@pytest.mark.parametrize("text", CLEAN)
def test_proper_text_is_not_reported_as_damaged(text):
    assert audit(make_splits(train=[text]))["severity"].isin(["note"]).all()


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\x1b", "\x85", "\ufffe", "\uffff"])
def test_control_characters_are_found(character):
    splits = make_splits(train=[f"a{character}b"])
    assert findings(splits).loc["text has control characters", "count"] == 1


@pytest.mark.parametrize("options", [{"on_leakage": "drop"}, {"max_length": 9}])
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        audit(make_splits(train=["a"]), **options)


@pytest.mark.parametrize(
    ("written", "read"),
    [("gb18030", "latin-1"), ("cp1251", "latin-1"), ("cp1251", "cp1252"), ("utf-8", "cp1252")],
)
def test_text_read_in_a_wrong_code_page_is_found(written, read):
    text = {"gb18030": "今天股市大涨，投资者很高兴"}.get(written, "Сегодня на рынке выросли акции")
    text = text.encode(written).decode(read, errors="ignore")
    assert "text has damaged characters" in findings(make_splits(train=[text])).index


@pytest.mark.parametrize("twin", ["cafe\u0301 noir", "caf\u00e9\u200b noir", "Caf\u00e9\u00a0noir"])
def test_texts_that_look_alike_are_duplicates(twin):
    found = findings(make_splits(train=["caf\u00e9 noir", "tea"], test=[twin]))
    assert found.loc["text is in train and in a held-out split", "count"] == 1


def test_near_duplicates_of_scripts_with_marks_compare_whole_words():
    train, test = "कि की के का को कौ", "कं कः कँ कृ कू कु"  # one letter, other signs
    assert audit(make_splits(train=[train], test=[test])).query("severity == 'error'").empty


def test_a_label_in_hindi_is_found_as_a_whole_word():
    splits = make_splits(train=["चुनावी सभा", "यह चुनाव है"])
    splits["train"] = splits["train"].remove_columns("labels").add_column("labels", [["चुनाव"]] * 2)
    found = findings(splits)
    assert found.loc["text contains its own label", "count"] == 1
