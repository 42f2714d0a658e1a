"""Answering with one of 77 labels: our scoring and search against what one would write first.

    python tests/benchmarks/labels.py

Banking77, the packaged model in NF4, tuned on a few documents to answer with their labels, the same
adapter and prompts for all; interleaved repeats, their medians. `score`: every label of the first
documents. `search`: the best label, best-first. `greedy`: token by token, where only tokens that
spell a label may follow. `exhaustive`: one forward pass for each document and label, no cache,
labels batched and logits taken at answer positions alone, on the first document and labels; its
speed is that of all labels at the same seconds a pass. `generate`: greedy generation of at most 8
tokens, all documents at once.

`accuracy` is that of the documents each has answered. `largest_gap` compares scores with exhaustive
ones, in nats; `ratio` is documents/s over those of `generate`. The adapter has learnt without a
list of labels in its prompt, and answers both with and without one.
"""

import statistics
import tempfile
import time
from collections import deque
from itertools import count

import numpy as np
import pandas as pd
import torch

from lib.config.arms import InstructionParams, StudyParams
from lib.config.data import DataParams
from lib.config.groups import LoraParams
from lib.data.labels import LabelSpace
from lib.data.load import load_splits
from lib.machine import choose_device, choose_dtype, configure_process, describe_machine
from lib.model.adapters import add_lora
from lib.model.load import load_backbone
from lib.model.parts import pretrained
from lib.model.weights import load_tokenizer
from lib.prompt.answers import parse_labels
from lib.prompt.decode import generate_answers
from lib.prompt.label_scores import score_labels
from lib.prompt.search import search_labels
from lib.prompt.template import PromptTemplate
from lib.storage import ROOT, atomic_path
from lib.training.finetune import finetune_instruction

OUT = ROOT / "figures" / "bench"
DATASET = "data/banking77/{split}.jsonl"
INSTRUCTION = "What does this customer of a bank ask about?"
TRAIN, EPOCHS, LAYERS = 770, 2, 10  # documents, and what their adapters are on: the last layers
DOCUMENTS, SCORED, REPEATS, NEW_TOKENS, TOKEN_BUDGET = 48, 12, 3, 8, 2048
EXHAUSTIVE = 11  # labels of the first document that exhaustive scoring scores


def exhaustive(model, prompts, answers):
    """(N, C) log-probabilities, a batch for each document."""
    model = pretrained(model).eval()
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


def tune(model, template, splits, texts, dtype):
    """The model with adapters that have learnt to answer the training documents."""
    model = add_lora(model, LoraParams(lora_r=8, lora_alpha=16, lora_layers=LAYERS))
    pairs = [
        template.with_answer(text, texts[label])
        for text, (label,) in zip(splits["train"]["text"], splits["train"]["labels"], strict=True)
    ]
    examples = [
        {"id": str(i), "input_ids": ids, "target": num} for i, (ids, num) in enumerate(pairs)
    ]
    epochs = count(1)
    with tempfile.TemporaryDirectory() as folder:
        finetune_instruction(  # the last epoch counts as the best one
            model, examples, lambda _: {"micro_f1": next(epochs)},
            InstructionParams(
                num_epochs=EPOCHS, batch_size=8, learning_rate=1e-3, token_budget=TOKEN_BUDGET
            ),
            compute_dtype=dtype, output_dir=folder,
        )  # fmt: skip
    return model


def load():
    """Splits, labels, tokenizer and the tuned model."""
    params = StudyParams()
    device = choose_device("auto")
    dtype = choose_dtype(device)
    documents = DataParams(
        dataset=DATASET, text_columns=["text"], label_column="labels", num_train=TRAIN,
        num_validation=77, num_test=0,
    )  # fmt: skip
    splits = load_splits(documents)
    space = LabelSpace.from_splits(splits)
    texts = {name: name.replace("_", " ") for name in space.names}
    tokenizer = load_tokenizer(params.model_id)
    model = load_backbone(params.model_id, head="lm", dtype=dtype, device=device)
    template = PromptTemplate.build(tokenizer, instruction=INSTRUCTION, max_length=64)
    return splits, space, texts, tokenizer, tune(model, template, splits, texts, dtype), dtype


def measure(loaded, *, listed: bool) -> list[dict]:
    splits, space, called, tokenizer, model, dtype = loaded
    texts = list(called.values())
    template = PromptTemplate.build(
        tokenizer, instruction=INSTRUCTION, labels=texts if listed else (), max_length=64
    )
    answers = [template.answer_ids(text) for text in texts]
    rows = splits["test"].shuffle(seed=0).select(range(DOCUMENTS))
    prompts = [template.prompt_ids(text) for text in rows["text"]]
    options = {"token_budget": TOKEN_BUDGET, "compute_dtype": dtype}
    longest = max(map(len, prompts)) + NEW_TOKENS
    contenders = {
        "score": lambda: score_labels(model, prompts[:SCORED], answers, **options),
        "search": lambda: search_labels(model, prompts, answers, greedy=False, **options),
        "greedy": lambda: search_labels(model, prompts, answers, greedy=True, **options),
        "exhaustive": lambda: exhaustive(model, prompts[:1], answers[:EXHAUSTIVE]),
        "generate": lambda: generate_answers(
            model, template, prompts, max_new_tokens=NEW_TOKENS,
            token_budget=DOCUMENTS * longest, compute_dtype=dtype,
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
    truth, exact = list(rows["labels"]), found["exhaustive"][0]
    table = []
    for name, times in seconds.items():
        documents = 1 / len(answers) * EXHAUSTIVE if name == "exhaustive" else len(found[name])
        row = {"labels_in_prompt": listed, "contender": name, "documents": documents}
        row |= {"documents_per_second": documents / statistics.median(times)}
        if name == "generate":
            preds = [parse_labels(answer, called) for answer in found[name]]
        elif name != "exhaustive":
            preds = called.best_names(found[name])
            seen = found[name][0, :EXHAUSTIVE]
            finished = np.isfinite(seen)
            row["largest_gap"] = np.abs(seen - exact)[finished].max(initial=0.0)
        if name != "exhaustive":
            right = [p == list(t) for p, t in zip(preds, truth[: len(preds)], strict=True)]
            row["accuracy"] = float(np.mean(right))
        table.append(row)
    theirs = table[-1]["documents_per_second"]
    for row in table:
        row["ratio"] = row["documents_per_second"] / theirs
        print(row, flush=True)
    return table


def main() -> None:
    configure_process(seed=0, num_threads=StudyParams().threads)
    loaded = load()
    table = pd.DataFrame(measure(loaded, listed=False) + measure(loaded, listed=True))
    with atomic_path(OUT / "labels.csv") as path:
        table.to_csv(path, index=False, float_format="%.4g")
    device = choose_device("auto")
    machine = describe_machine(device, choose_dtype(device))
    with atomic_path(OUT / "labels.md") as path:
        shown = table.to_markdown(index=False, floatfmt=".3g", missingval="")
        path.write_text(f"{machine}\n\n{shown}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
