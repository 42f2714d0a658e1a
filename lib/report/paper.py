"""What the paper reports (arXiv 2512.12677, versions 1 to 3), as context for our own numbers."""

import pandas as pd

CONTEXT = "context: other data"
PATENTS, WIPO = "5-class patents (proprietary)", "14-label WIPO set"
HEAD = "LoRA r = 8 head on Llama-3.2-3B"
PROMPT = "instruction-tuned, r = 64 (5-class: Mistral-7B)"
BERT = "encoder of PatentBERT's size, fully fine-tuned"
FROZEN = "frozen LLM2Vec embedding and head"
ZERO_SHOT = "zero-shot Llama-3.2-3B-Instruct"
# System, data, F1, trained parameters; None where the paper's readers found no number.
PAPER = (
    (HEAD, PATENTS, 0.860, 12.2e6),
    (PROMPT, PATENTS, 0.853, 167.8e6),
    (BERT, PATENTS, 0.854, 346e6),
    (ZERO_SHOT, PATENTS, 0.21, 0),
    ("best prompted frontier model", PATENTS, 0.823, 0),
    (HEAD, WIPO, 0.785, 12.2e6),
    (PROMPT, WIPO, 0.819, 167.8e6),
    (BERT, WIPO, 0.801, 346e6),
    (FROZEN, WIPO, 0.833, None),
    (ZERO_SHOT, WIPO, 0.17, 0),
)


def paper_context(comparison: pd.DataFrame, *, data: str) -> pd.DataFrame:
    """Our arms, the best first, and below them what the paper reports, for orientation alone.

    None of the paper's rows can be set against ours: its patents are proprietary, its 14-label set
    is probably a slice of WIPO's vision technologies and not the IPC collection WIPO-Alpha (Fall et
    al. 2003), its models are others than ours, and how its F1 is averaged and its data split is
    not known to us.

    Parameters
    ----------
    comparison
        `arm micro_f1 micro_f1_low micro_f1_high trainable_params`, a row per arm.
    data
        What our documents are called.

    Returns
    -------
    DataFrame
        `source system data f1 f1_low f1_high trainable_params`; `source` is "this study" or
        "context: other data"; ours is micro-F1.
    """
    ours = comparison[["arm", "micro_f1", "micro_f1_low", "micro_f1_high", "trainable_params"]]
    ours.columns = ["system", "f1", "f1_low", "f1_high", "trainable_params"]
    theirs = pd.DataFrame(PAPER, columns=["system", "data", "f1", "trainable_params"])
    rows = [ours.assign(source="this study", data=data), theirs.assign(source=CONTEXT)]
    columns = ["source", "system", "data", "f1", "f1_low", "f1_high", "trainable_params"]
    return pd.concat(rows, ignore_index=True)[columns]
