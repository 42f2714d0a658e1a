"""Results of studies of made-up predictions of which something is missing."""

import shutil

import pandas as pd
import yaml
from made_study import make_study

from lib.config.arms import CompareParams
from lib.errors import ModelError
from lib.report import StudyResults


def results_of(folder, **values):
    common = yaml.safe_load((folder / "common.yaml").read_text())
    return StudyResults(CompareParams(**common, num_resamples=100, **values))


def test_a_size_at_which_the_reference_has_not_run_has_f1_but_no_effects(tmp_path):
    folder = make_study(tmp_path, ["embedding", "tfidf", "instruction"], sizes=(16, 32))
    shutil.rmtree(folder / "runs" / "made" / "embedding@16")
    arms = [f"{arm}@{n}" for arm in ("embedding", "tfidf", "instruction") for n in (16, 32)]
    results = results_of(folder, arms=arms, reference="embedding")
    results.save_sizes()
    sizes, effects = (pd.read_csv(results.folder / f"{x}.csv") for x in ("sizes", "effects"))
    assert sizes.groupby("train_size")["arm"].count().to_dict() == {16: 2, 32: 3}
    assert set(effects["train_size"]) == {32}
    assert set(effects["arm_b"]) == {"embedding"}
    assert "Missing: embedding@16: seed 0." in results.gaps


def test_without_the_tokenizer_the_report_leaves_out_what_is_read_alone(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise ModelError("model_id: none")

    monkeypatch.setattr("lib.report.study.load_tokenizer", refuse)
    results = results_of(make_study(tmp_path, ["embedding"]))
    assert list(results.slices()) == ["training documents of a label", "words of a document"]
    assert len(results.documents) == 120
    assert capsys.readouterr().out == "model_id: none\n"
