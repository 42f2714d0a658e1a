"""Markdown tables of the committed results, for `make readme`: cog calls them where they are shown.

Each function returns a table, between empty lines, from the CSV files in `figures/`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from lib.config.sources import read_sources

FIGURES = Path(__file__).resolve().parents[1] / "figures"

# Documents of each study with head and prompt, in the order in which they are shown.
STUDIES = {
    "quick": "Reuters, 52 topics, 1,000 documents",
    "patents_section": "patents, 8 sections, 1,500 documents",
    "shots_section": "patents, 8 sections, 512 documents",
    "learning_curve": "patents, 8 sections, 256 documents, three seeds",
    "budget": "patents, 8 sections, 256 documents, three seeds",
    "shots_banking77": "bank queries, 77 intents, 770 documents",
    "reuters90": "label sets: Reuters, 90 topics, 1,500 documents",
    "shots_reuters90": "label sets: Reuters, 90 topics, 400 documents",
    "patents_subclass": "label sets: patents, 482 subclasses, 1,500 documents",
}
WITHOUT_PROMPT = {
    "patents_subclass_all": "label sets: patents, 596 subclasses, 8,437 documents",
}
ARMS = {
    "embedding": "**the head**: LoRA on the NF4 model, linear head on its pooled embedding (03)",
    "instruction": "**the prompt**: LoRA on the same NF4 model, trained to answer the label (04)",
    "encoder": "all-MiniLM-L6-v2 (BERT family, 22M parameters), fully fine-tuned (03)",
    "frozen": "logistic regression on the untrained model's pooled embedding (02)",
    "tfidf": "linear SVM on TF-IDF of words and word pairs (02)",
    "zero_shot": "the untrained model; its prompt lists the labels (04)",
}
SHOWN = ("embedding", "instruction", "encoder", "frozen", "tfidf")
SHOTS = ("zero_shot", "few_shot", "instruction", "embedding")
CASES = {
    "train_news": "training the head, 20 Newsgroups, up to 512 tokens",
    "train_patents": "training the head, patents, 128 tokens",
    "infer_news": "predicting with the head, 20 Newsgroups",
    "infer_patents": "predicting with the head, patents",
    "prompt_train_patents": "training the prompt, patents",
    "prompt_infer_patents": "predicting with the prompt, patents",
}
GPU_RUNS = {
    "train_512: ours": "ours",
    "train_512: ours in 12 GiB": "ours, `memory_gib: 12`",
}
GPU_BASELINES = {
    "usual": "the usual recipe",
    "usual, checkpointed": "the usual recipe, gradient checkpointing",
}


def arms() -> str:
    """Arms of the quick study: approach, micro-F1, seconds of training and speed."""
    rows = []
    for _, row in _read("quick", "comparison").iterrows():
        cells = [f"`{row.arm}`", ARMS[row.arm], _interval(row, "micro_f1")]
        rows.append([*cells, f"{row.train_seconds:,.0f}", f"{row.infer_docs_per_second:,.0f}"])
    header = (
        "arm",
        "approach (notebook)",
        "micro-F1 (95 % interval)",
        "training (s)",
        "documents/s",
    )
    return _table(header, rows, numbers=2)


def results(study: str) -> str:
    """F1 of every arm with its 95 % interval, and what the arm costs."""
    rows = []
    for _, row in _read(study, "comparison").iterrows():
        rows.append(
            [
                f"`{row.arm}`",
                _interval(row, "micro_f1"),
                _interval(row, "macro_f1"),
                f"{row.trainable_params:,.0f}",
                f"{row.train_seconds:,.0f}",
                f"{row.infer_docs_per_second:,.0f}",
                f"{row.peak_memory_gib:.1f}",
            ]
        )
    header = (
        "arm", "micro-F1 (95 % interval)", "macro-F1 (95 % interval)", "trained parameters",
        "training (s)", "inference (documents/s)", "peak memory (GiB)",
    )  # fmt: skip
    return _table(header, rows, numbers=4)


def scores(studies: Iterable[str], arms: Sequence[str], *, folder: str = "") -> str:
    """Micro-F1 with its 95 % interval, one row per study, linked to its figure."""
    rows = []
    for study in studies:
        table = _read(study, "comparison").set_index("arm")
        f1 = [_interval(table.loc[arm], "micro_f1") if arm in table.index else "" for arm in arms]
        rows.append([f"[`{study}`]({folder}{study}/forest.png)", *f1])
    return _table(("study", *arms), rows)


def answer() -> str:
    """Micro-F1 of the arms on each task of the answer, and head minus prompt as in `leads`."""
    keys = ["task", "model", "train_size"]
    cells = _read("answer", "scores").merge(_read("answer", "cells"), on=[*keys, "num_labels"])
    rows = []
    for _, row in cells.sort_values([*keys[1:], "effect"]).iterrows():
        about = [row.task, row.model, f"{row.train_size:,}", f"{row.num_labels}"]
        scores = [f"{row[arm]:.3f}" for arm in SHOWN]
        effects = _read(f"{row.task}-{row.model}", "effects")
        of_size = effects[effects["train_size"] == row.train_size]
        rows.append([*about, *scores, _difference(of_size, *SHOWN[:2], "micro_f1")])
    header = ("task", "model", "documents", "labels", "head", "prompt", *SHOWN[2:], "head − prompt")
    return _table(header, rows)


def leads(arms: Sequence[str], *, metric: str = "micro_f1", arm: str = "embedding") -> str:
    """Differences of an arm from others per study; bold if interval and adjusted p agree on it."""
    rows = []
    for study, documents in (STUDIES | WITHOUT_PROMPT).items():
        cells = [_difference(_read(study, "pairwise"), arm, other, metric) for other in arms]
        rows.append([f"`{study}`", documents, *cells])
    return _table(("study", "documents", *(f"minus `{other}`" for other in arms)), rows)


def choices(study: str) -> str:
    """Micro-F1 of each arm of an ablation minus that of its default, best first."""
    table = _read(study, "pairwise").query("metric == 'micro_f1' and arm_b == 'default'")
    rows = [
        [
            f"`{row.arm_a}`",
            f"{row.delta:+.3f} ({row.low:+.3f} to {row.high:+.3f})",
            f"{row.p_holm:.2g}" if row.p_holm >= 0.001 else "< 0.001",
        ]
        for _, row in table.sort_values("delta", ascending=False).iterrows()
    ]
    return _table(("choice", "micro-F1 minus default's (95 % interval)", "adjusted p"), rows)


def ladder(study: str) -> str:
    """Ways to answer with one trained prompt, on validation documents; means over seeds."""
    table = _read(study, "ladder").groupby("decoding", sort=False).mean(numeric_only=True)
    rows = [
        [
            f"`{decoding}`",
            f"{row.micro_f1:.3f}",
            f"{100 * row.out_of_set_rate:.1f} %",
            f"{row.docs_per_second:.1f}",
        ]
        for decoding, row in table.iterrows()
    ]
    return _table(
        ("decoding", "micro-F1", "answers outside the set", "documents/s"), rows, numbers=3
    )


def rates() -> str:
    """Mean validation micro-F1 per learning rate; the best of each row is bold."""
    table = pd.read_csv(FIGURES / "learning_curve" / "rates.csv")
    names = {"embedding": "head", "instruction": "prompt"}
    means = table.pivot_table(index=["arm", "lora_r"], columns="learning_rate", values="micro_f1")
    means = means.round(3)  # half to even: these are means of two numbers with three decimals
    rows = []
    for (arm, rank), row in means.iterrows():
        best = row.max()
        cells = [f"**{x:.3f}**" if x == best else f"{x:.3f}" for x in row.fillna(-1)]
        rows.append([f"{names[arm]}, rank {rank}", *("" if "-1" in x else x for x in cells)])
    header = ["learning rate", *(f"{x * 1000:g}e-3" for x in means.columns)]
    return _table(header, rows, numbers=len(means.columns))


def few_documents() -> str:
    """Validation micro-F1 with 256 training documents: a row per setting, a column per data set."""
    table = _read("few_documents", "validation").query("documents == 256").fillna("")
    table["data"] = table["data"] + [f" ({labels} labels)" for labels in table["labels"]]
    settings = ["arm", "pooling", "depth", "batch_size", "epochs", "learning_rate"]
    table["setting"] = [tuple(row) for row in table[settings].to_numpy()]
    wide = table.pivot_table("validation_micro_f1", "setting", "data", sort=False)
    whole = [(arm, pool, *(f"{n:.0f}" if n else "" for n in numbers), rate)
             for arm, pool, *numbers, rate in wide.index]  # fmt: skip
    rows = [
        [*map(str, setting), *("" if pd.isna(f1) else f"{f1:.3f}" for f1 in values)]
        for setting, values in zip(whole, wide.to_numpy(), strict=True)
    ]
    header = ("arm", "pooling", "depth", "batch", "epochs", "rate", *wide.columns)
    return _table(header, rows, numbers=len(wide.columns))


def bench() -> str:
    """Our speed and memory against the usual recipes."""
    table = pd.read_csv(FIGURES / "bench" / "bench.csv")
    memory = table[table["metric"] == "peak memory"].set_index(["case", "baseline"])["ratio"]
    rows = []
    for _, row in table[table["metric"] == "documents per second"].iterrows():
        place = (row["case"], row["baseline"])
        cells = [CASES[row["case"]], f"`{row['baseline']}`", f"{row['ours']:.2f}"]
        cells += [f"{row['theirs']:.2f}", f"{row['ratio']:.2f}"]
        rows.append([*cells, f"{memory[place]:.2f}" if place in memory.index else ""])
    header = (
        "", "against", "documents/s, ours", "theirs", "ratio", "peak memory, theirs / ours"
    )  # fmt: skip
    return _table(header, rows, numbers=4)


def gpu() -> str:
    """Training of an 8B model's head on one GPU."""
    table = pd.read_csv(FIGURES / "bench" / "gpu.csv").set_index(["case", "baseline", "metric"])
    rows = []
    for (ours, title), (theirs, usual) in zip(GPU_RUNS.items(), GPU_BASELINES.items(), strict=True):
        speed, peak = (table.loc[ours, theirs, m] for m in ("tokens per second", "peak memory"))
        rows.append([title, f"{speed['ours']:,.0f}", f"{peak['ours']:.1f}"])
        rows.append([usual, f"{speed['theirs']:,.0f}", f"{peak['theirs']:.1f}"])
    header = ("training the head of an 8B model", "tokens/s", "peak memory, GiB")
    return _table(header, rows, numbers=2)


def labels() -> str:
    """Speed of ways to find one of 77 labels, without and with the labels in the prompt."""
    table = pd.read_csv(FIGURES / "bench" / "labels.csv").set_index("contender")
    rows = []
    for contender in ("search", "score", "greedy", "generate", "exhaustive"):
        cells = [f"`{contender}`"]
        for listed in (False, True):
            row = table[table["labels_in_prompt"] == listed].loc[contender]
            accuracy = "" if pd.isna(row.accuracy) else f"{row.accuracy:.2f}"
            cells += [f"{row.documents_per_second:.3g}", f"{row.ratio:.2f}", accuracy]
        rows.append(cells)
    header = (
        "one of 77 labels by", "documents/s", "against `generate`", "accuracy",
        "labels in the prompt: documents/s", "against `generate`", "accuracy",
    )  # fmt: skip
    return _table(header, rows, numbers=6)


def quote(file: str) -> str:
    """Text of a committed file of `figures/`."""
    return f"\n{(FIGURES / file).read_text(encoding='utf-8').strip()}\n"


def data_sets() -> str:
    """Public data sets: the documents, how many there are, their labels and the size of files."""
    rows = []
    for source in read_sources().values():
        documents = " + ".join(f"{table.documents:,}" for table in source.tables.values())
        labels = max(table.labels for table in source.tables.values())
        size = sum(file.bytes for file in source.files.values()) / 1e6
        name = f"[`{source.name}`]({source.homepage})"
        rows.append((name, source.title, documents, f"{labels:,}", f"{size:.1f}" if size else ""))
    return _table(("set", "contents", "documents", "labels", "download (MB)"), rows, numbers=3)


def licences() -> str:
    """Licence of each public data set, and how to cite it."""
    rows = [(f"`{s.name}`", s.licence, s.use, s.cite) for s in read_sources().values()]
    return _table(("set", "licence", "allows", "cite"), rows)


def _read(study: str, table: str) -> pd.DataFrame:
    return pd.read_csv(FIGURES / study / f"{table}.csv")


def _interval(row: pd.Series, metric: str) -> str:
    return f"{row[metric]:.3f} ({row[f'{metric}_low']:.3f}–{row[f'{metric}_high']:.3f})"


def _difference(pairs: pd.DataFrame, arm: str, other: str, metric: str) -> str:
    """The difference with its interval, whichever of the two comes first in the table of pairs."""
    table = pairs[pairs["metric"] == metric]
    for sign, pair in ((1, (arm, other)), (-1, (other, arm))):
        found = table[(table["arm_a"] == pair[0]) & (table["arm_b"] == pair[1])]
        for _, row in found.iterrows():
            low, high = sorted((sign * row.low, sign * row.high))
            text = f"{sign * row.delta:+.3f} ({low:+.3f} to {high:+.3f})"
            return f"**{text}**" if row.p_holm < 0.05 and low * high > 0 else text
    return ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A Markdown table whose last `numbers` columns are aligned to the right."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n" + "\n".join(lines) + "\n"
