"""Answering with one of 77 labels: our scoring and search against what one would write first.

    python tests/benchmarks/labels.py

Banking77, the untrained packaged model in NF4, the same prompts for all; interleaved repeats, their
medians. `exhaustive`: one forward pass for each document and label, no cache, the labels of a
document batched and logits taken at answer positions alone, on the first documents. `generate`:
greedy generation of 8 tokens, 16 documents at once, sorted by length. `accuracy` is that of the
documents each has answered; `largest_gap` compares scores with exhaustive ones, in nats.
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
from lib.prompts import PromptTemplate, parse_labels
from lib.results import atomic_path
from lib.search import search_labels

OUT = ROOT / "figures" / "bench"
DATASET = "../shared/data/banking77/{split}.jsonl"
DOCUMENTS, REPEATS, NEW_TOKENS, TOKEN_BUDGET = 16, 3, 8, 2048
EXHAUSTIVE = 2  # documents that exhaustive scoring answers: 77 passes each


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
        "exhaustive": lambda: exhaustive(model, prompts[:EXHAUSTIVE], answers),
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
    called = LabelSpace(space.names, tuple(texts))
    table = []
    for name, times in seconds.items():
        if name == "generate":
            preds, gap = [parse_labels(answer, called) for answer in found[name]], float("nan")
        else:
            preds = called.decode_best(found[name])
            checked = np.where(np.isfinite(found[name]), found[name], 0)[:EXHAUSTIVE]
            gap = np.abs(np.where(checked, checked - found["exhaustive"], 0)).max()
        right = [p == list(t) for p, t in zip(preds, rows["labels"], strict=False)]
        row = {"labels_in_prompt": listed, "contender": name, "documents": len(preds)}
        row |= {"documents_per_second": len(preds) / statistics.median(times)}
        table.append(row | {"accuracy": float(np.mean(right)), "largest_gap": float(gap)})
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
