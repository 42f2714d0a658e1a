"""The numbers of README and of figures/README are those of the committed runs."""

import re

import pandas as pd
import pytest

from lib.storage import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")


def joined(text):
    """The text without line breaks."""
    return " ".join(text.split())


def results_table(study):
    """The Markdown table of `figures/<study>/comparison.csv` that README shows."""
    table = pd.read_csv(ROOT / "figures" / study / "comparison.csv")
    lines = [
        "| arm | micro-F1 (95 % interval) | macro-F1 (95 % interval) | trained parameters "
        "| training (s) | inference (documents/s) | peak memory (GiB) |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for _, row in table.iterrows():
        f1 = [
            f"{row[a]:.3f} ({row[f'{a}_low']:.3f}–{row[f'{a}_high']:.3f})"
            for a in ("micro_f1", "macro_f1")
        ]
        cells = [f"`{row.arm}`", *f1, f"{row.trainable_params:,.0f}", f"{row.train_seconds:,.0f}"]
        cells += [f"{row.infer_docs_per_second:,.0f}", f"{row.peak_memory_gib:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_readme_shows_the_committed_conclusion_table_and_figure():
    assert results_table("quick") in README
    assert (ROOT / "figures/quick/conclusion.md").read_text(encoding="utf-8").strip() in README
    assert "(figures/quick/forest.png)" in README


def test_every_link_leads_somewhere():
    for text, folder in ((README, ROOT), (RESULTS, ROOT / "figures")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (folder / target).exists(), target


def test_every_score_of_the_overview_stands_in_a_table_of_its_studies():
    overview = README.split("## What else was measured")[1].split("\n## ")[0]
    told = set()
    for first, last in re.findall(r"^\| (`.+?) \|.*\| (.+) \|$", overview, re.MULTILINE):
        studies = re.findall(r"`(\w+)`", first)
        files = [file for name in studies for file in (ROOT / "figures" / name).glob("*.csv")]
        numbers = [pd.read_csv(file).select_dtypes("number").to_numpy().flat for file in files]
        known = {f"{abs(x):.3f}" for values in numbers for x in values}
        assert set(re.findall(r"0\.\d{3}", last)) <= known, first
        told |= set(studies)
    assert told == {f.parent.name for f in (ROOT / "figures").glob("*/comparison.csv")} - {"quick"}


def test_the_answer_tells_by_how_much_the_head_leads_in_every_study():
    """Bold where it is distinguishable."""
    answer = README.split("## The answer")[1].split("\n### ")[0]
    told = re.findall(r"(\**[+-]0\.\d{3}\**) \(`(\w+)`\)", answer)
    leads = []
    for file in (ROOT / "figures").glob("*/pairwise.csv"):
        for _, row in pd.read_csv(file).query("metric == 'micro_f1'").iterrows():
            if {row.arm_a, row.arm_b} == {"embedding", "instruction"}:
                lead = f"{row.delta if row.arm_a == 'embedding' else -row.delta:+.3f}"
                certain = row.p_holm < 0.05 and row.low * row.high > 0
                leads.append((f"**{lead}**" if certain else lead, file.parent.name))
    assert sorted(told) == sorted(leads)


ARMS = ("embedding", "instruction", "encoder", "frozen", "tfidf")
SHOTS = ("zero_shot", "few_shot", "instruction", "embedding")


def study_row(study, arms):
    """The row of a study: micro-F1 with its interval, of every arm."""
    table = pd.read_csv(ROOT / "figures" / study / "comparison.csv").set_index("arm")
    cells = [f"[`{study}`]({study}/forest.png)"]
    for arm in arms:
        row = table.loc[arm]
        cells.append(f"{row.micro_f1:.3f} ({row.micro_f1_low:.3f}–{row.micro_f1_high:.3f})")
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("study", "arms"),
    [
        ("patents_section", ARMS),
        ("patents_subclass", ARMS),
        ("reuters90", ARMS),
        ("shots_section", SHOTS),
        ("shots_banking77", SHOTS),
        ("shots_reuters90", SHOTS),
    ],
)
def test_studies_with_the_same_arms_stand_in_tables(study, arms):
    row = study_row(study, arms)
    assert row in RESULTS, row
    assert (ROOT / "figures" / study / "report.html").exists()


def test_results_tell_which_choices_of_the_head_matter():
    folder = ROOT / "figures" / "ablation_embedding"
    assert (folder / "conclusion.md").read_text(encoding="utf-8").strip() in RESULTS
    assert "(ablation_embedding/pairwise.png)" in RESULTS


@pytest.mark.parametrize("study", ["ablation_embedding", "ablation_embedding_sets"])
def test_results_keep_the_finding_of_each_arm_that_left(study):
    table = pd.read_csv(ROOT / "figures" / study / "pairwise.csv").query("metric == 'micro_f1'")
    arms = {file.stem for file in (ROOT / "params" / study).glob("*.yaml")}
    left = table[~table["arm_a"].isin(arms)]
    assert len(left)
    assert set(left["arm_b"]) == {"default"}
    section = RESULTS.partition("## What left, and why")[2].partition("\n## ")[0]
    for _, row in left.iterrows():
        assert f"{row.delta:+.3f} ({row.low:+.3f} to {row.high:+.3f})" in section


def test_results_tell_which_choices_matter_for_label_sets():
    folder = ROOT / "figures/ablation_embedding_sets"
    assert (folder / "conclusion.md").read_text(encoding="utf-8").strip() in RESULTS
    table = pd.read_csv(folder / "pairwise.csv").set_index(["arm_a", "metric"])
    row = table.loc[("logit_adjusted", "macro_f1")]
    assert (
        f"{row.delta:+.3f} ({row.low:+.3f} to {row.high:+.3f}, Holm-adjusted p = {row.p_holm:.3f})"
    ) in joined(RESULTS)


def test_results_tell_which_choices_of_the_prompt_matter():
    results = joined(RESULTS)
    folder = ROOT / "figures/ablation_instruction"
    assert " ".join((folder / "conclusion.md").read_text(encoding="utf-8").split()) in results
    for figure in ("pairwise", "ladder"):
        assert f"(ablation_instruction/{figure}.png)" in results
    rungs = pd.read_csv(folder / "ladder.csv").groupby("decoding").mean(numeric_only=True)
    f1 = {decoding: f"{rungs.loc[decoding, 'micro_f1']:.3f}" for decoding in rungs.index}
    assert f1["beam"] == f1["search"] == f1["score"]
    assert (
        f"have equal F1 (mean micro-F1 {f1['search']}), `greedy` {f1['greedy']}, free generation "
        f"{f1['generate']} with {100 * rungs.loc['generate', 'out_of_set_rate']:.1f} % of its "
        "answers outside the set"
    ) in results
    assert f"`score_length` {f1['score_length']} and `score_prior` {f1['score_prior']}." in results


def test_results_tell_what_all_documents_bring():
    folder = ROOT / "figures/patents_subclass_all"
    table = pd.read_csv(folder / "comparison.csv").set_index("arm")
    f1, best, macro = (
        [f"{table.loc[arm, metric]:.3f}" for arm in ("embedding", "tfidf", "encoder")]
        for metric in ("micro_f1", "precision_at_1", "macro_f1")
    )
    pairs = pd.read_csv(folder / "pairwise.csv").set_index(["arm_a", "arm_b", "metric"])
    gains = [
        f"{row.delta:+.3f}, {row.low:+.3f} to {row.high:+.3f}"
        for row in (pairs.loc["embedding", "tfidf", m] for m in ("micro_f1", "macro_f1"))
    ]
    minutes = table.loc["embedding", "train_seconds"] / 60
    sets = [f"{table.loc[arm, 'accuracy']:.3f}" for arm in ("embedding", "tfidf", "encoder")]
    results = joined(RESULTS)
    assert (
        f"the head on the last ten layers reaches {f1[0]}, TF-IDF {f1[1]} and the encoder {f1[2]}, "
        f"with {best[0]}, {best[1]} and {best[2]} of best labels right (P@1), and in macro-F1 "
        f"{macro[0]}, {macro[1]} and {macro[2]}. In micro-F1 the head is not distinguishable from "
        f"TF-IDF ({gains[0]}), in macro-F1 it is better ({gains[1]}), at {minutes:.0f} minutes"
    ) in results
    assert f"whole label sets right ({sets[0]} against {sets[1]} and {sets[2]})" in results


def test_results_tell_what_the_head_reaches():
    table = pd.read_csv(ROOT / "figures/patents_head/comparison.csv").set_index("arm")
    results = joined(RESULTS)
    head, frozen, tfidf = (table.loc[arm] for arm in ("embedding", "frozen", "tfidf"))
    assert head.num_seeds == 3
    assert (
        f"accuracy {head.accuracy:.3f} ({head.micro_f1_low:.3f} to {head.micro_f1_high:.3f}, over "
        f"documents and seeds) against {frozen.accuracy:.3f} of a frozen embedding and "
        f"{tfidf.accuracy:.3f} of TF-IDF"
    ) in results


CASES = {
    "train_news": "training the head, 20 Newsgroups, at most 512 tokens",
    "train_patents": "training the head, patents, 128 tokens",
    "infer_news": "predicting with the head, 20 Newsgroups",
    "infer_patents": "predicting with the head, patents",
    "prompt_train_patents": "training the prompt, patents",
    "prompt_infer_patents": "predicting with the prompt, patents",
}


def speed_table():
    """The Markdown table of figures/bench/bench.csv that README shows."""
    table = pd.read_csv(ROOT / "figures" / "bench" / "bench.csv")
    lines = [
        "| | against | documents/s, ours | theirs | ratio | peak memory, theirs / ours |",
        "|---|---|---:|---:|---:|---:|",
    ]
    memory = table[table["metric"] == "peak memory"].set_index(["case", "baseline"])["ratio"]
    for _, row in table[table["metric"] == "documents per second"].iterrows():
        where = (row["case"], row["baseline"])
        cells = [CASES[row["case"]], f"`{row['baseline']}`", f"{row['ours']:.2f}"]
        cells += [f"{row['theirs']:.2f}", f"{row['ratio']:.2f}"]
        cells.append(f"{memory[where]:.2f}" if where in memory.index else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_readme_shows_the_committed_benchmark():
    assert speed_table() in README, speed_table()


def test_results_show_what_was_measured_on_a_gpu():
    table = pd.read_csv(ROOT / "figures/bench/gpu.csv").set_index(["case", "baseline", "metric"])
    results = joined(RESULTS)
    pairs = {"ours": "usual", "ours in 12 GiB": "usual, checkpointed"}
    titles = {
        "ours": "ours",
        "usual": "the usual recipe",
        "ours in 12 GiB": "ours, `memory_gib: 12`",
        "usual, checkpointed": "the usual recipe, gradient checkpointing",
    }
    ratios = []
    for ours, theirs in pairs.items():
        speed, peak = (
            table.loc[f"train_512: {ours}", theirs, metric]
            for metric in ("tokens per second", "peak memory")
        )
        for name, side in ((ours, "ours"), (theirs, "theirs")):
            assert f"| {titles[name]} | {speed[side]:,.0f} | {peak[side]:.1f} |" in results
        ratios.append(speed["ratio"])
    mixed = table.loc["train_mixed: ours", "usual", "tokens per second"]["ratio"]
    assert (
        f"That is {ratios[0]:.2f} times the usual recipe, {ratios[1]:.2f} times where memory is "
        f"short, and {mixed:.2f} times on mixed lengths."
    ) in results
    capped = table.loc["train_1024: ours, allocator capped at 16 GiB", "cap", "peak memory"]
    assert f"given 16 GiB ({capped['ours']:.1f} used," in results
    shares = [
        table.loc[f"train_512: {size}", "machine_limit", "model FLOP/s of ours"]["ratio"]
        for size in ("8B", "3B", "1B")
    ]
    assert "reaches {:.0%} of the rate of the card's matrix products, {:.0%} with 3B and {:.0%} "\
        "with 1B".format(*shares).replace("%", " %") in results  # fmt: skip
    losses = table.xs("usual", level="baseline").filter(like="loss", axis="index")["ours"]
    assert f"by up to {losses.iloc[:2].max():.2f} nats in bfloat16" in results
    assert f"its own differ by {losses.iloc[2]:.2f} when" in results


def test_results_tell_what_few_documents_and_equal_budgets_bring():
    for figure in ("learning_curve/curves.png", "budget/forest.png"):
        assert f"({figure})" in RESULTS
    for words in ("learning_curve/curves.md", "budget/conclusion.md"):
        assert (ROOT / "figures" / words).read_text(encoding="utf-8").strip() in RESULTS
    kept = pd.read_csv(ROOT / "figures/budget/distillation.csv").iloc[0]
    assert (
        f"keeps {kept.micro_f1_kept:.0%} of the head's micro-F1 ({kept.micro_f1_kept_low:.0%} to "
        f"{kept.micro_f1_kept_high:.0%}) and answers {kept.speedup:.1f} times as many documents a "
        "second"
    ) in joined(RESULTS)


def labels_table():
    """The Markdown table of figures/bench/labels.csv that is shown."""
    table = pd.read_csv(ROOT / "figures" / "bench" / "labels.csv").set_index("contender")
    lines = [
        "| one of 77 labels by | documents/s | against `generate` | accuracy "
        "| labels in the prompt: documents/s | against `generate` | accuracy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for contender in ("search", "score", "greedy", "generate", "exhaustive"):
        cells = [f"`{contender}`"]
        for listed in (False, True):
            row = table[table["labels_in_prompt"] == listed].loc[contender]
            accuracy = "" if pd.isna(row.accuracy) else f"{row.accuracy:.2f}"
            cells += [f"{row.documents_per_second:.3g}", f"{row.ratio:.2f}", accuracy]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_results_show_how_fast_labels_are_found():
    assert labels_table() in RESULTS, labels_table()


@pytest.mark.parametrize(
    "study", ["reuters90", "shots_section", "shots_banking77", "shots_reuters90"]
)
def test_results_tell_whether_the_head_leads_the_tuned_prompt(study):
    pairs = pd.read_csv(ROOT / "figures" / study / "pairwise.csv").set_index(["arm_a", "arm_b"])
    pairs = pairs[pairs["metric"] == "micro_f1"]
    arms = ("embedding", "instruction")
    row = pairs.loc[arms if arms in pairs.index else arms[::-1]]
    assert f"({row.delta:+.3f}, {row.low:+.3f} to {row.high:+.3f}" in RESULTS
