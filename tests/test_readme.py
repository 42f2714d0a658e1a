"""README's numbers are those of the committed run."""

import pandas as pd

from lib.params import ROOT


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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results_table("quick") in readme
    assert (ROOT / "figures/quick/conclusion.md").read_text(encoding="utf-8").strip() in readme
    assert "figures/quick/forest.png" in readme
    assert (ROOT / "figures/quick/forest.png").exists()
