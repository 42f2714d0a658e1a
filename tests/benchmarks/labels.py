"""Answering with one of 77 labels: our scoring and search against what one would write first.

    python tests/benchmarks/labels.py

Banking77, the untrained packaged model in NF4, the same prompts for all; interleaved repeats, their
medians. `exhaustive`: one forward pass for each document and label, no cache, the labels of a
document batched and logits taken at answer positions alone. `generate`: greedy generation of 8
tokens, 16 documents at once, sorted by length. `agreement` is the share of documents with the
label that exhaustive scoring finds; free answers have none.
"""

import statistics
import time
from collections import deque

import numpy as np
import pandas as pd
import torch

from lib.answering import generate_answers
from lib.data import LabelSpace, load_splits
from lib.decoding import causal_lm, score_labels
from lib.device import choose_device, choose_dtype, describe_machine, start_run
from lib.loader import load_backbone, load_tokenizer
from lib.params import ROOT, StudyParams
from lib.prompts import PromptTemplate
from lib.results import atomic_path
from lib.search import search_labels

OUT = ROOT / "figures" / "bench"
DATASET = "../shared/data/banking77/{split}.jsonl"
DOCUMENTS, REPEATS, NEW_TOKENS, TOKEN_BUDGET = 16, 3, 8, 2048


def exhaustive(model, prompts, answers):
    """(N, C) log-probabilities, a batch for each document."""
    model = causal_lm(model).eval()
    scores = np.empty((len(prompts), len(answers)))
    longest = max(map(len, answers))
    targets = torch.full((len(answers), longest), -100)
    for row, answer in enumerate(answers):
        targets[row, : len(answer)] = torch.tensor(answer)
    for i, prompt in enumerate(prompts):
        ids = torch.cat([torch.tensor(prompt).repeat(len(answers), 1), targets.clamp(min=0)], 1)
        with torch.inference_mode():
            states = model.model(input_ids=ids.to(model.device)).last_hidden_state
            logits = model.lm_head(states[:, len(prompt) - 1 : -1]).float()
        loss = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets.to(model.device), reduction="none"
        )
        scores[i] = -loss.sum(dim=1).cpu().numpy()
    return scores


def measure(listed: bool) -> list[dict]:
    params = StudyParams()
    device = choose_device("auto")
    dtype = choose_dtype(device)
    tokenizer = load_tokenizer(params.model_id)
    model = load_backbone(params.model_id, head="lm", dtype=dtype, device=device)
    splits = load_splits(
        dataset=DATASET, text_columns=["text"], label_column="labels", num_train=0,
        num_validation=77, num_test=0,
    )  # fmt: skip
    space = LabelSpace.from_splits(splits)
    texts = [name.replace("_", " ") for name in space.names]
    template = PromptTemplate.build(
        tokenizer,
        instruction="What does this customer of a bank ask about?",
        labels=texts if listed else (),
        max_length=64,
    )
    answers = [template.answer_ids(text) for text in texts]
    rows = splits["test"].shuffle(seed=0).select(range(DOCUMENTS))
    prompts = [template.render(text) for text in rows["text"]]
    options = {"token_budget": TOKEN_BUDGET, "compute_dtype": dtype}
    longest = max(map(len, prompts)) + NEW_TOKENS
    contenders = {
        "score": lambda: score_labels(model, prompts, answers, **options),
        "search": lambda: search_labels(model, prompts, answers, num_beams=None, **options),
        "exhaustive": lambda: exhaustive(model, prompts, answers),
        "generate": lambda: generate_answers(
            model, template, prompts, max_new_tokens=NEW_TOKENS,
            token_budget=16 * longest, compute_dtype=dtype,
        ),
    }  # fmt: skip
    seconds, found = {name: [] for name in contenders}, {}
    order = deque(contenders)
    for _ in range(REPEATS):
        for name in order:
            start = time.perf_counter()
            found[name] = contenders[name]()
            seconds[name].append(time.perf_counter() - start)
        order.rotate()
    best = found["exhaustive"].argmax(axis=1)
    table = []
    for name, times in seconds.items():
        speed = DOCUMENTS / statistics.median(times)
        agreement = float("nan") if name == "generate" else (found[name].argmax(axis=1) == best)
        row = {"labels_in_prompt": listed, "contender": name, "documents_per_second": speed}
        table.append(row | {"agreement": float(np.mean(agreement))})
        print(table[-1], flush=True)
    return table


def main() -> None:
    start_run(seed=0, num_threads=StudyParams().threads)
    table = pd.DataFrame(measure(listed=False) + measure(listed=True))
    with atomic_path(OUT / "labels.csv") as path:
        table.to_csv(path, index=False, float_format="%.4g")
    device = choose_device("auto")
    print(describe_machine(device, choose_dtype(device)))


if __name__ == "__main__":
    main()
