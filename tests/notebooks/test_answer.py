"""06_answer on made-up studies: many tasks, few, missing ones, and an arm that has not run."""

import json
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from lib.config.arms import AnswerParams
from lib.errors import InputError
from lib.report.answer import AnswerResults
from lib.storage import ROOT

KINDS = {"one": "short", "two": "short", "three": "short", "four": "long", "five": "long"}
ARMS = {"embedding": 0.02, "instruction": 0.0, "encoder": -0.01, "tfidf": -0.1}


def write_study(figures, task, model, arms=ARMS, sizes=(64, 256), seed=0):
    """What 05_compare leaves of a study, whose arms differ by their gains and by chance."""
    generator = np.random.default_rng([seed, len(task)])
    folder = figures / f"{task}-{model}"
    folder.mkdir(parents=True)
    scores, effects = [], []
    for size in sizes:
        f1 = {arm: 0.7 + gain + generator.normal(0, 0.01) for arm, gain in arms.items()}
        scores += [
            {"arm": arm, "micro_f1": value, "train_size": size, "num_labels": 2 ** len(task),
             "num_seeds": 1,
             "train_seconds": 100.0 * (2 if arm == "instruction" else 1),
             "infer_docs_per_second": 10.0}
            for arm, value in f1.items()
        ]  # fmt: skip
        for i, a in enumerate(f1):
            for b in list(f1)[i + 1 :]:
                delta = f1[b] - f1[a]  # named the other way round
                row = {"arm_a": b, "arm_b": a, "delta": delta, "low": delta - 0.02}
                row |= {
                    "high": delta + 0.02,
                    "error": 0.0102,
                    "train_size": size,
                    "num_labels": 2 ** len(task),
                }
                effects += [row | {"metric": m} for m in ("micro_f1", "macro_f1")]
    pd.DataFrame(scores).to_csv(folder / "sizes.csv", index=False)
    columns = ["arm_a", "arm_b", "metric", "delta", "low", "high", "error", "train_size"]
    columns += ["num_labels"]
    pd.DataFrame(effects, columns=columns).to_csv(folder / "effects.csv", index=False)


def params(figures):
    """Parameters of the answer, whose studies are planned in a folder beside the figures."""
    models = {"small": 0.1, "large": 0.4}
    for task in KINDS:
        for model in models if task != "five" else ("small",):
            folder = figures / "answer" / f"{task}-{model}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "common.yaml").write_text("seeds: [0]\ntrain_sizes: [64, 256]\n")
    return AnswerParams(
        tasks=KINDS, models=models, figures_dir=str(figures), params_dir=str(figures)
    )


@pytest.fixture
def answered(tmp_path):
    for number, task in enumerate(KINDS):
        write_study(tmp_path, task, "small", seed=number)
    write_study(tmp_path, "one", "large")
    return AnswerResults(params(tmp_path))


def test_cells_are_head_minus_prompt_however_the_pair_is_named(answered):
    cells = answered.cells
    assert len(cells) == 12
    assert cells["effect"].between(-0.02, 0.06).all()
    assert np.allclose(cells["high"] - cells["low"], 0.04)
    assert answered.missing == [f"{task}-large" for task in list(KINDS)[1:4]]


def test_the_answer_is_in_three_sentences_and_says_what_intervals_are_over(answered):
    text = answered.answer()
    where = "with models of 0.1 and 0.4 billion parameters and 64 and 256 training documents"
    assert text.startswith(
        f"Over 5 tasks, {where}, the head's micro-F1 minus the prompt's is +0.01"
    )
    assert "the **head** is better on average. On a new task it is expected between" in text
    assert "5 of the 5 tasks lie where the others predict them" in text
    assert text.count(". ") == 3
    assert text.endswith("Intervals are over test documents, with one seed.")
    assert "better than the encoder (+0.03" in text
    assert (answered.folder / "conclusion.md").read_text() == text + "\n"


def test_parts_slopes_ranks_and_costs(answered):
    parts = answered.by_part()
    assert parts[["part", "value", "num_tasks"]].to_numpy().tolist() == [
        ["kind", "short", 3], ["model", "small", 5], ["train_size", 64, 5], ["train_size", 256, 5]
    ]  # fmt: skip
    scores = answered.scores()
    assert list(scores.columns)[4:] == ["embedding", "instruction", "encoder", "tfidf"]
    assert len(scores) == len(answered.cells)
    assert set(answered.slopes()["term"]) == {"log_train_size", "log_labels"}
    ranks, p, critical, number = answered.ranks()
    assert ranks.index[0] == "embedding"
    assert (ranks.index[-1], number) == ("tfidf", 5)
    assert 0 < p < 0.05 < critical
    costs = answered.costs().set_index("arm")
    assert costs.loc["instruction", "train_seconds"] == pytest.approx(2)
    assert costs.loc["tfidf", "infer_docs_per_second"] == pytest.approx(1)


def test_tasks_with_the_same_documents_count_as_one(answered):
    others = answered.params.model_copy(update={"same_documents": {"five": "four"}})
    results = AnswerResults(others)
    assert set(results.cells["task"]) == set(KINDS)
    assert results.pooled("embedding", "instruction").num_tasks == 4
    assert set(results.left_out()["task"]) == {"one", "two", "three", "four"}
    assert results.ranks()[-1] == 4
    assert set(results.slopes()["term"]) == {"log_train_size", "log_labels"}
    with pytest.raises(ValueError, match="same_documents: 'six' is not one of tasks"):
        AnswerParams(tasks=KINDS, same_documents={"six": "four"})


def test_arms_that_some_tasks_lack_are_not_ranked(tmp_path):
    for number, task in enumerate(KINDS):
        arms = ARMS if number else {a: ARMS[a] for a in ("embedding", "instruction", "tfidf")}
        write_study(tmp_path, task, "small", arms=arms, seed=number)
    ranks, _, _, number = AnswerResults(params(tmp_path)).ranks()
    assert (set(ranks.index), number) == ({"embedding", "instruction", "tfidf"}, 5)


def test_few_tasks_are_no_answer(tmp_path):
    write_study(tmp_path, "one", "small")
    results = AnswerResults(params(tmp_path))
    assert "no answer over tasks yet" in results.answer()
    assert results.by_part().empty
    assert results.ranks() is None
    assert results.left_out().empty
    assert results.slopes().empty


def test_three_tasks_have_a_mean_but_do_not_predict_a_new_one(tmp_path):
    for number, task in enumerate(list(KINDS)[:3]):
        write_study(tmp_path, task, "small", seed=number)
    results = AnswerResults(params(tmp_path))
    assert "3 tasks are too few to say what a new one will show" in results.answer()
    assert np.isnan(results.pooled("embedding", "instruction").new_low)
    assert results.by_part()["new_high"].isna().all()


def test_a_study_without_an_arm_is_named_and_does_not_count(tmp_path):
    write_study(tmp_path, "one", "small")
    write_study(tmp_path, "two", "small", arms={"embedding": 0.0, "tfidf": 0.1})
    write_study(tmp_path, "three", "small", arms={"tfidf": 0.1})
    results = AnswerResults(params(tmp_path))
    assert results.incomplete == [
        "two-small: prompt did not run",
        "three-small: head and prompt did not run",
    ]
    assert set(results.cells["task"]) == {"one"}


def test_training_sizes_and_seeds_that_did_not_run_are_named_once(tmp_path):
    write_study(tmp_path, "one", "small", sizes=(64,))
    write_study(tmp_path, "two", "small", sizes=(64,))
    write_study(tmp_path, "three", "small")
    asked = params(tmp_path)
    (tmp_path / "answer/three-small/common.yaml").write_text("seeds: [0, 1]\ntrain_sizes: [256]\n")
    assert AnswerResults(asked).incomplete == [
        "one-small and two-small: none of the seeds ran with 256 training documents",
        "three-small: 1 of 2 seeds ran with 256 training documents",
    ]


def test_searches_whose_best_is_the_outermost_are_counted(tmp_path):
    for task, best in (("one", 0), ("two", 1), ("three", 2)):
        write_study(tmp_path, task, "small")
        tries = {
            "learning_rate": [1e-3, 2e-3, 4e-3],
            "lora_r": [4, 8, 8],  # two values: the best is always outermost
            "pooling": ["mean", "last", "last"],
            "micro_f1": [0.5, 0.6, 0.7],
            "epochs": [1, 2, 3],
            "train_seconds": [1.0, 2.0, 3.0],
            "chosen": [i == best for i in range(3)],
        }
        table = pd.DataFrame(tries).assign(arm="embedding", seed=0)
        table.to_csv(tmp_path / f"{task}-small/search.csv", index=False)
    results = AnswerResults(params(tmp_path))
    assert results.edges().to_numpy().tolist() == [["embedding", "learning_rate", 3, 1, 1]]


def test_without_a_finished_study_the_command_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no study of 'answer' .* STUDY=one-small`$"):
        AnswerResults(params(tmp_path))


def test_the_notebook_draws_the_answer(tmp_path):
    for number, task in enumerate(KINDS):
        write_study(tmp_path / "figures", task, "small", seed=number)
    values = {"study": "answer", "tasks": KINDS, "models": {"small": 0.1, "large": 0.4}}
    params(tmp_path)
    (tmp_path / "answer" / "common.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/06_answer.ipynb")]
    command += [str(tmp_path / "06.ipynb"), "--no-progress-bar", "-r", "study", "answer"]
    command += ["-r", "params_dir", str(tmp_path), "-r", "figures_dir", str(tmp_path / "figures")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "figures" / "answer"
    for name in ("tasks", "ranks"):
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert (folder / f"{name}.caption.md").exists()
    for name in ("cells", "parts", "slopes", "left_out", "pooled", "ranks", "costs"):
        assert len(pd.read_csv(folder / f"{name}.csv"))
    text = json.dumps(nbformat.read(tmp_path / "06.ipynb", as_version=4))
    assert "Not finished: one-large, two-large" in text
