"""Minutes to the usual recipe's F1: our head against peft and `Trainer`, from texts to test labels.

    python tests/benchmarks/time_to_f1.py --rates    once: three learning rates each
    python tests/benchmarks/time_to_f1.py            at the best rate of each

Both train SmolLM2-135M in NF4 with LoRA r = 8 on the same documents, as many epochs, and are judged
on validation after each. The clock starts when model and texts are in memory and runs through
tokenization, training, validation and the prediction of test. Each has a process of its own and the
machine to itself; over several seeds they take turns.

The recipe adapts all layers. Ours adapts the last third and computes the layers below once.

Writes figures/bench/time_to_f1.csv, a figure and a caption; with --rates, rates.csv.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from contenders import DEVICE, DTYPE, MODEL_ID, RANK, GroupByLength
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from lib import storage
from lib.config.arms import EmbeddingParams, StudyParams
from lib.config.data import DataParams
from lib.config.groups import TrainParams
from lib.data.labels import LabelSpace
from lib.data.load import load_splits
from lib.evaluation import compare_all, f1_scores
from lib.head import HeadLoss, predict_logits
from lib.machine import configure_process, describe_machine, peak_memory_gib, reset_peak_memory
from lib.model import cache_lower_layers, encode_documents, load_tokenizer
from lib.report import save_figure, set_plot_style
from lib.runs import load_arm_model
from lib.storage import ROOT, atomic_path
from lib.training import finetune_embedding

OUT = ROOT / "figures" / "bench"
EPOCHS, BATCH = 3, 8
LAYERS = 10  # of 30, adapted by ours
LESS = 0.005  # F1 below the recipe's last one on validation, at which it counts as reached
RATES = (1e-3, 2e-3, 4e-3)  # of each; at 5e-4 the recipe learnt too little on Banking77


class Task(NamedTuple):
    """Documents, and how many tokens of each are read."""

    max_length: int
    data: dict[str, Any]
    pooling: str = "mean"  # of ours, the better on validation


TASKS = {
    "patents": Task(
        128,
        {"dataset": "data/patents_ipc/{split}.jsonl", "split_names": ["train", "", "dev"],
         "text_columns": ["title", "abstract"], "label_column": "ipc", "label_mode": "first",
         "label_level": "section", "num_train": 300},
    ),
    "R52": Task(512, {"num_train": 300}),  # the default data set
    "banking77": Task(
        64,
        {"dataset": "data/banking77/{split}.jsonl", "text_columns": ["text"],
         "label_column": "labels", "num_train": 616},
        pooling="last",
    ),
}  # fmt: skip
SIZES = {"num_validation": 150, "allow_unseen_labels": True}

Judge = Callable[[np.ndarray], dict[str, float]]
"""F1 of the labels of validation, as numbers; its moment is noted."""


class Documents:
    """Texts of a task's splits, and the number of each one's label."""

    def __init__(self, task: str, num_test: int) -> None:
        splits = load_splits(DataParams(**TASKS[task].data, **SIZES, num_test=num_test))
        self.max_length, self.pooling = TASKS[task].max_length, TASKS[task].pooling
        self.tokenizer = load_tokenizer(MODEL_ID)
        self.labels = LabelSpace.from_splits(splits)
        self.texts = {name: list(split["text"]) for name, split in splits.items()}
        self.targets = {
            name: [self.labels.names.index(labels[0]) for labels in split["labels"]]
            for name, split in splits.items()
        }

    def encode(self, split: str) -> list[list[int]]:
        return encode_documents(
            self.tokenizer, self.texts[split], max_length=self.max_length, add_special_tokens=True
        )

    def one_hot(self, labels: list[int] | np.ndarray) -> np.ndarray:
        """(N, C) bool."""
        return np.eye(len(self.labels), dtype=bool)[np.asarray(labels)]

    def f1(self, split: str, labels: np.ndarray) -> dict[str, float]:
        return f1_scores(self.one_hot(self.targets[split]), self.one_hot(labels))


class Ours:
    """What 03_finetune_embedding does, with nothing in the cache."""

    def __init__(self, documents: Documents, rate: float, seed: int) -> None:
        self.documents = documents
        self.params = EmbeddingParams(
            seed=seed, learning_rate=rate, num_epochs=EPOCHS, batch_size=BATCH, lora_r=RANK,
            lora_layers=LAYERS, max_length=documents.max_length, report_to=[],
            pooling=documents.pooling,
        )  # fmt: skip
        self.model = load_arm_model(self.params, documents.labels, device=DEVICE, dtype=DTYPE)

    def fit(self, judge: Judge, folder: str) -> None:
        storage.CACHE = Path(folder) / "cache"
        tokens = {name: self.documents.encode(name) for name in ("train", "validation")}
        budget = self.params.token_budget
        cached, _ = cache_lower_layers(
            self.model, tokens, compute_dtype=DTYPE, fingerprint=MODEL_ID, token_budget=budget
        )
        rows = zip(tokens["train"], self.documents.targets["train"], strict=True)
        finetune_embedding(
            self.model,
            [{"id": str(i), "input_ids": x, "target": y} for i, (x, y) in enumerate(rows)],
            lambda model: judge(self._answer(tokens["validation"], cached.get("validation", ()))),
            self.params,
            head_loss=HeadLoss("cross_entropy", len(self.documents.labels)),
            cached=cached.get("train", ()),
            output_dir=Path(folder) / "checkpoints",
        )

    def predict(self) -> np.ndarray:
        return self._answer(self.documents.encode("test"))

    def _answer(self, tokens: list[list[int]], states=()) -> np.ndarray:
        options = {"token_budget": self.params.token_budget, "cached_states": states}
        return predict_logits(self.model, tokens, **options).values.argmax(axis=1)


class InOrder(Trainer):
    """Evaluates documents as they are sorted, also where training groups them by length."""

    def _get_eval_sampler(self, eval_dataset: Dataset) -> SequentialSampler:
        return SequentialSampler(eval_dataset)


class Recipe(GroupByLength):
    """`AutoModelForSequenceClassification`, peft and `Trainer` on batches of similar lengths."""

    def __init__(self, documents: Documents, rate: float, seed: int) -> None:
        self.documents, self.rate, self.seed = documents, rate, seed
        case = {"ids": documents.encode("train"), "targets": documents.targets["train"]}
        case["max_length"] = documents.max_length
        super().__init__({"num_labels": len(documents.labels), "train": case})
        seconds = self.choose_attention("train")
        self.model = self.load()  # without what that has trained
        self.attend(min(seconds, key=seconds.get))

    def fit(self, judge: Judge, folder: str) -> None:
        train, _ = self._dataset("train")
        validation, order = self._dataset("validation")
        steps = EPOCHS * math.ceil(len(train) / BATCH)
        judged = {
            "num_train_epochs": EPOCHS,
            "learning_rate": self.rate,
            "warmup_steps": round(TrainParams().warmup_share * steps),
            "per_device_eval_batch_size": 2 * BATCH,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "micro_f1",
            "seed": self.seed,
            "data_seed": self.seed,
        }
        options = self.options(folder, BATCH, self.documents.max_length) | judged
        self.trainer = InOrder(
            model=self.model,
            args=TrainingArguments(train_sampling_strategy=self.strategy, **options),
            train_dataset=train,
            eval_dataset=validation,
            data_collator=DataCollatorWithPadding(self.tokenizer),
            compute_metrics=lambda answer: judge(_in_order(answer.predictions, order)),
        )
        self.trainer.train()

    def predict(self) -> np.ndarray:
        test, order = self._dataset("test")
        self.trainer.compute_metrics = None
        return _in_order(self.trainer.predict(test).predictions, order)

    def _dataset(self, split: str) -> tuple[Dataset, np.ndarray]:
        """Tokens and labels, the longest document first, and the place of each in the split."""
        tokens, targets = self.documents.encode(split), np.array(self.documents.targets[split])
        order = np.argsort([-len(document) for document in tokens], kind="stable")
        rows = {"input_ids": [tokens[i] for i in order], "labels": targets[order]}
        return Dataset.from_dict(rows), order


def _in_order(logits: np.ndarray, order: np.ndarray) -> np.ndarray:
    labels = np.empty(len(order), dtype=int)
    labels[order] = logits.argmax(axis=1)
    return labels


CONTENDERS = {"recipe": Recipe, "ours": Ours}


def work(name: str, task: str, num_test: int, rate: float, seed: int) -> dict[str, Any]:
    """One contender, in this process: when validation had which F1, and the labels of test."""
    configure_process(seed=seed, num_threads=StudyParams().threads)
    documents = Documents(task, num_test)
    contender = CONTENDERS[name](documents, rate, seed)
    configure_process(seed=seed, num_threads=StudyParams().threads)
    reset_peak_memory(DEVICE)
    points: list[tuple[float, float]] = []
    start = time.perf_counter()

    def judge(labels: np.ndarray) -> dict[str, float]:
        f1 = documents.f1("validation", labels)
        points.append((time.perf_counter() - start, f1["micro_f1"]))
        return f1

    with tempfile.TemporaryDirectory() as folder:
        contender.fit(judge, folder)
        fitted = time.perf_counter()
        labels = contender.predict()
    end = time.perf_counter()
    return {
        "points": points,
        "seconds": end - start,
        "speed": len(labels) / (end - fitted),
        "peak": peak_memory_gib(DEVICE),
        "truth": documents.targets["test"],
        "labels": labels.tolist(),
    }


def in_process(*arguments) -> dict[str, Any]:
    """`work` in a process of its own."""
    command = [sys.executable, __file__, "--work", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def try_rates(tasks: list[str]) -> None:
    """Best F1 on validation at each rate, seed 0."""
    file = OUT / "rates.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    for task in tasks:
        for name in CONTENDERS:
            for rate in RATES:
                if any((r["task"], r["contender"], r["rate"]) == (task, name, rate) for r in rows):
                    continue  # of a try that was stopped
                done = in_process(name, task, 16, rate, 0)
                best = max(f1 for _, f1 in done["points"])
                rows.append({"task": task, "contender": name, "rate": rate, "f1": best})
                print(rows[-1], f"{done['seconds']:.0f} s", flush=True)
                with atomic_path(file) as path:
                    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")


def best_rates() -> pd.Series:
    """The rate of the highest F1 on validation, by task and contender."""
    if not (OUT / "rates.csv").exists():
        raise SystemExit("no rates yet: run it with --rates first, which takes an hour or two")
    table = pd.read_csv(OUT / "rates.csv")
    best = table.sort_values("f1", ascending=False, kind="stable")
    best = best.drop_duplicates(["task", "contender"])
    return best.set_index(["task", "contender"])["rate"]


def compare(task: str, runs: dict[str, list[dict]]) -> dict[str, Any]:
    """A row of the table: medians over seeds, and the paired interval of F1 on test."""
    recipe, ours = runs["recipe"], runs["ours"]
    pairs = list(zip(recipe, ours, strict=True))
    goals = [r["points"][-1][1] - LESS for r in recipe]
    reached = {name: statistics.median(map(seconds_to, runs[name], goals)) for name in CONTENDERS}
    truth = np.array(recipe[0]["truth"])
    num_labels = 1 + max(max(truth), *(max(r["labels"]) for pair in pairs for r in pair))
    one_hot = np.eye(num_labels, dtype=bool)
    preds = {name: [one_hot[r["labels"]] for r in runs[name]] for name in ("ours", "recipe")}
    f1 = compare_all(one_hot[truth], preds).set_index("metric").loc["micro_f1"]
    row: dict[str, Any] = {"task": task, "seeds": len(pairs)}
    for name in CONTENDERS:
        row |= {
            f"{name}_to_f1": reached[name],
            f"{name}_seconds": statistics.median(r["seconds"] for r in runs[name]),
            f"{name}_f1": np.mean([(truth == r["labels"]).mean() for r in runs[name]]),
            f"{name}_speed": statistics.median(r["speed"] for r in runs[name]),
            f"{name}_peak": max(r["peak"] for r in runs[name]),
        }
    faster = [
        seconds_to(r, goal) / seconds_to(o, goal) for (r, o), goal in zip(pairs, goals, strict=True)
    ]
    return row | {"ratio": statistics.median(faster)} | dict(f1[["delta", "low", "high"]])


def seconds_to(run: dict, goal: float) -> float:
    """Seconds until validation first had this F1; infinite if it never had."""
    return next((seconds for seconds, f1 in run["points"] if f1 >= goal), math.inf)


def plot(points: pd.DataFrame) -> plt.Figure:
    """F1 on validation over minutes, a panel per task."""
    fig, axs = plt.subplots(1, len(TASKS), figsize=(3.4 * len(TASKS), 3))
    for ax, task in zip(axs, TASKS, strict=True):
        for name, color, marker in zip(CONTENDERS, ("C1", "C0"), "so", strict=True):
            rows = points[(points["task"] == task) & (points["contender"] == name)]
            for i, (_, seed) in enumerate(rows.groupby("seed")):
                label = None if i else name
                ax.plot(seed["seconds"] / 60, seed["f1"], color=color, marker=marker, label=label)
        ax.set(title=task, xlabel="minutes", xlim=(0, None))
    axs[0].set_ylabel("micro-F1 on validation")
    axs[0].legend()
    fig.tight_layout()
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", action="store_true", help="try the rates of each")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--test", type=int, default=300, help="test documents")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
        print(json.dumps(work(*json.loads(args.work))), file=answer)
        return
    if args.rates:
        try_rates(args.tasks)
        return
    rates, rows, points = best_rates(), [], []
    for task in args.tasks:
        runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
        for seed in args.seeds:
            for name in CONTENDERS:
                run = in_process(name, task, args.test, rates[task, name], seed)
                runs[name].append(run)
                for seconds, f1 in run["points"]:
                    point = {"task": task, "contender": name, "seed": seed}
                    points.append(point | {"seconds": seconds, "f1": f1})
        rows.append(compare(task, runs))
        print(rows[-1], flush=True)
    write(pd.DataFrame(rows), pd.DataFrame(points))


def write(table: pd.DataFrame, points: pd.DataFrame) -> None:
    for name, rows in {"time_to_f1": table, "time_to_f1_points": points}.items():
        with atomic_path(OUT / f"{name}.csv") as path:
            rows.to_csv(path, index=False, float_format="%.6g")
    configure_process(seed=0, num_threads=StudyParams().threads)
    set_plot_style()
    caption = (
        "Micro-F1 on validation after each epoch, over the minutes since texts and model were in "
        "memory: our head (adapters on the last ten of 30 layers) and the usual recipe, peft and "
        "`Trainer`, a line per seed. Both train SmolLM2-135M in NF4 with LoRA r = 8, each at the "
        f"best of three learning rates (rates.csv). Machine: {describe_machine(DEVICE, DTYPE)}. "
        "Command: `python tests/benchmarks/time_to_f1.py`."
    )
    save_figure(plot(points), OUT, "time_to_f1", caption)


if __name__ == "__main__":
    main()
