"""Names of arms in words, from the parameters of their runs."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.report.wording import shorten

# Endings of a model's name about the storage of its file, such as ".Q4_K_M.gguf"
STORED = re.compile(r"([.-](I?Q\d\w*|B?F(16|32)))?(\.gguf)?$", re.IGNORECASE)


def arm_names(runs: pd.DataFrame) -> dict[str, str]:
    """The name of each arm in words, such as "head on SmolLM2-135M", by the arm's key.

    Arms with the same words have their key before them. Where all arms have the same words, each is
    called by its key alone. `runs` has `arm params`.
    """
    first = runs.groupby("arm", sort=False)["params"].first()
    words = {arm: describe_arm(params) for arm, params in first.items()}
    count = Counter(words.values())
    if len(count) == 1 < len(words):
        return {arm: arm for arm in words}
    return {arm: name if count[name] == 1 else f"{arm}: {name}" for arm, name in words.items()}


def name_model(model_id: str) -> str:
    """The model's name without folders, the storage of its file, and "Instruct"."""
    *folders, name = [part for part in re.split(r"[:/]", model_id) if part]
    if name == "model" and folders:  # of a package "<prefix>_<model>/model"
        name = folders[-1].partition("_")[2].replace("_", "-") or folders[-1]
    return shorten(STORED.sub("", name).removesuffix("-Instruct"))


def describe_arm(params: Mapping[str, Any]) -> str:
    """The approach of a run in words, from its parameters: method, model, teacher or examples."""
    model, notebook = name_model(params["model_id"]), params.get("notebook", "")
    adapted = params.get("lora_r", 1) > 0
    if notebook.startswith("02"):
        return f"frozen {model}" if params.get("method") == "frozen" else "TF-IDF + linear SVM"
    if notebook.startswith("03"):
        taught = f", taught by {params['teacher']}" if params.get("teacher") else ""
        return f"{'head on' if adapted else 'fine-tuned'} {model}{taught}"
    if params.get("num_epochs", 1) > 0:
        return f"prompt on {'' if adapted else 'fine-tuned '}{model}"
    shown = params.get("num_examples", 0)
    return f"{model}, {f'shown {shown} examples' if shown else 'only prompted'}"
