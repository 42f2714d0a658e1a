"""Names of arms in words, from the parameters of their runs."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.report.wording import shorten

# Endings of a model's name that say how its file is stored, and not which model it is
STORED = re.compile(r"(\.gguf)?([.-](I?Q\d\w*|B?F(16|32)))?$|-Instruct(?=[.-]|$)", re.IGNORECASE)


def arm_names(runs: pd.DataFrame) -> dict[str, str]:
    """The name of each arm in words, such as "head on SmolLM2-135M".

    Arms that would be called the same have their key before the words, or, where all of them would
    be, the key alone.

    Parameters
    ----------
    runs
        See `lib.runs.record.read_runs`.
    """
    first = runs.groupby("arm", sort=False)["params"].first()
    words = {arm: _describe(params) for arm, params in first.items()}
    count = Counter(words.values())
    if len(count) == 1 < len(words):
        return {arm: arm for arm in words}
    return {arm: name if count[name] == 1 else f"{arm}: {name}" for arm, name in words.items()}


def name_model(model_id: str) -> str:
    """The model's name without folders and without the storage of its file."""
    parts = [part for part in re.split(r"[:/]", model_id) if part]
    name = parts[-1] if parts[-1] != "model" or len(parts) == 1 else parts[-2]
    return shorten(STORED.sub("", STORED.sub("", name)).replace("_", "-"))


def _describe(params: Mapping[str, Any]) -> str:
    """An arm in words, by its notebook."""
    model, notebook = name_model(params["model_id"]), params.get("notebook", "")
    trained = params.get("num_epochs", 1) > 0
    fully = ", fully fine-tuned" if params.get("lora_r") == 0 and trained else ""
    if notebook.startswith("02"):
        frozen = params.get("method") == "frozen"
        return f"logistic regression on frozen {model}" if frozen else "linear SVM on TF-IDF"
    if notebook.startswith("03"):
        taught = f", taught by {params['teacher']}" if params.get("teacher") else ""
        return f"{f'{model}{fully}' if fully else f'head on {model}'}{taught}"
    if trained:
        return f"prompt on {model}{fully}"
    shown = params.get("num_examples", 0)
    return f"untrained {model}, prompted{f' with {shown} examples' if shown else ''}"
