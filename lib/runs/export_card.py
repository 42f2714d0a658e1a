"""The model card of an exported run: its run's card, with intervals and another way to load it.

Apart from `lib.runs.card`, because a run is not out of date where intervals are computed otherwise.
"""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCard
from scipy.sparse import csr_array

from lib.evaluation.intervals import f1_intervals
from lib.runs.card import CONFIDENCE, LOADING, RESULTS, SCORES
from lib.runs.finished import read_label_space, read_predictions
from lib.runs.record import CARD


class Usage(NamedTuple):
    """The library that loads an exported model, and Markdown on how; `{folder}` is its folder."""

    library: str
    text: str


def write_export_card(run_dir: Path, folder: Path, usage: Usage) -> None:
    """Write `README.md` into the folder of an exported run.

    What the user has changed in the run's card stays, but for results and loading.
    """
    file = run_dir / CARD
    card = ModelCard.load(file) if file.exists() else ModelCard("---\n---\n\n# An exported model\n")
    test, label_space = read_predictions(run_dir), read_label_space(run_dir)
    truth, answers = (
        csr_array(label_space.encode(test[c])).toarray() for c in ("y_true", "y_pred")
    )
    groups = test["group"].to_numpy() if "group" in test else None
    row = f1_intervals(truth, {"arm": answers[None]}, groups=groups).iloc[0]
    ends = {name: (row[f"{key}_low"], row[f"{key}_high"]) for name, key in SCORES.items()}

    before, _, rest = card.text.partition(RESULTS)
    results, _, after = rest.partition(CONFIDENCE)
    for name, (low, high) in ends.items():
        results = results.replace(f"| {name} |", f"| {name}, {low:.3f} to {high:.3f} |")
    results = results.replace("| score |", "| score, 95 % interval |").rstrip()
    units = "test documents" if groups is None else "groups of test documents"
    units += ", for this one trained model: another seed would score otherwise"
    results += f"\n\nIntervals are over {units}.\n\n"
    whole = f"{before}{RESULTS}{results}{CONFIDENCE}{after}" if after else card.text
    for result in card.data.eval_results or []:
        if result.metric_name in ends:
            low, high = ends[result.metric_name]
            result.metric_name += f" (95 % interval {low:.3f} to {high:.3f})"

    card.data.library_name = usage.library
    how = usage.text.replace("{folder}", folder.name)
    card.text = f"{whole.partition(LOADING)[0].rstrip()}\n\n{LOADING}\n\n{how}\n"
    card.save(folder / Path(CARD).name)
