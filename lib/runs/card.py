"""The model card of a run: what was trained on which documents, and how well it answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from lib.config.arms import StudyParams
from lib.data.tables import HUB_ID, is_hub_id
from lib.storage import ROOT, atomic_path

CARD = """---
{{ card_data }}
---

# {{ params.study }}, {{ params.arm }}, seed {{ params.seed }}

- **Model:** `{{ model }}`, by `notebooks/{{ params.notebook }}.ipynb`; all parameters are in the run's `params.yaml`
- **Data:** {{ data }}
- **Test:** micro-F1 {{ "%.3f" | format(metrics.micro_f1) }}, macro-F1 {{ "%.3f" | format(metrics.macro_f1) }}

```python
from lib.runs import load_classifier

load_classifier("{{ folder }}").predict(["a text"])
```
"""  # noqa: E501


def describe_data(values: Mapping[str, Any]) -> str:
    """Data set, version and checksum of the documents, from the values of a run's `params.yaml`."""
    version = f", {values['data_version']}" if values.get("data_version") else ""
    return (
        f"`{values['dataset']}`{version}; SHA-256 of the documents used: "
        f"{values['data_fingerprint']}"
    )


def write_card(
    folder: Path, params: StudyParams, inputs: Mapping[str, str], metrics: Mapping[str, Any]
) -> None:
    """Write `README.md` into the run's folder of the model, if there is one.

    Parameters
    ----------
    inputs
        See `lib.runs.record.describe_inputs`.
    metrics
        See `lib.evaluation.metrics.run_metrics`.
    """
    if not (folder / "model").is_dir():
        return
    model = "TF-IDF" if getattr(params, "method", "") == "tfidf" else params.model_id
    card = ModelCard.from_template(
        ModelCardData(
            base_model=model if HUB_ID.fullmatch(model) and not (ROOT / model).exists() else None,
            datasets=[params.dataset] if is_hub_id(params.dataset) else None,
            pipeline_tag="text-classification",
        ),
        template_str=CARD,
        params=params,
        model=model,
        data=describe_data({"dataset": params.dataset} | inputs),
        metrics=metrics,
        folder=folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder,
    )
    with atomic_path(folder / "model" / "README.md") as path:
        card.save(path)
