"""A run: its documents and labels, the steps that every notebook shares, and its results."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerBase

from lib.config.arms import EmbeddingParams, FinetuneParams, StudyParams
from lib.data.auditing import audit
from lib.data.labels import LabelSpace
from lib.data.load import load_splits, take_train
from lib.errors import InputError
from lib.evaluation.metrics import tune_threshold
from lib.evaluation.scores import Labels, Scores
from lib.head.frozen import frozen_features
from lib.machine import (
    GIB,
    NO_COST,
    Cost,
    choose_device,
    choose_dtype,
    configure_process,
    describe_machine,
    meter,
    peak_memory_gib,
    reset_peak_memory,
)
from lib.model import cache_lower_layers
from lib.model.load import count_parameters
from lib.model.parts import pretrained
from lib.model.weights import load_config, load_tokenizer
from lib.runs import reading
from lib.runs.card import write_card
from lib.runs.distillation import check_teacher, soft_targets
from lib.runs.owner import Owner, touched
from lib.runs.record import count_labels, describe_inputs, open_run, saved_gib, write_run
from lib.stopping import Stopped, noting_signals
from lib.storage import atomic_path
from lib.training.processes import require_devices
from lib.training.sharing import first_alone
from lib.training.trainer import SPENT

log = logging.getLogger(__name__)


class Run:
    """One run of an arm: one approach with its parameters, one seed, one folder of results.

    `splits` has the documents of "train", "validation" and "test": `id` str, `text` str and
    `labels` list[str] of each. `folder`, `checkpoints` and `peaks` exist once `open` was called.

    Raises `InputError` if the parameters, the documents or the device cannot be used.
    """

    def __init__(self, params: StudyParams) -> None:
        configure_process(seed=params.seed, num_threads=params.threads)
        self.loads_model = getattr(params, "method", None) != "tfidf"
        self.device = choose_device(params.device if self.loads_model else "cpu")
        require_devices(getattr(params, "num_processes", 1), self.device, params.threads)
        self.dtype = choose_dtype(self.device, getattr(params, "dtype", "auto"))
        splits = load_splits(params)
        if not reading.reads_all(params):
            params = reading.with_length(params, splits["train"]["text"])
        self.label_space = LabelSpace.from_splits(splits, label_names=params.label_names)
        self.splits = take_train(
            splits, params.train_size, multi_label=params.multi_label, seed=params.seed
        )
        self.asked = params  # the parameters of the arm, with a number as `max_length`
        self._unsearch()
        self._paid: dict[tuple[str, str], Cost] = {}

    def _unsearch(self) -> None:
        """Set what a search replaces: parameters, with enough epochs for `min_steps`, and tries."""
        self.params, self.tries = self.asked, None
        if isinstance(self.asked, FinetuneParams):
            self.params = self.asked.with_min_steps(len(self.splits["train"]))

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        machine = describe_machine(self.device, self.dtype)
        return f"{machine}\n{sizes}; {len(self.label_space):,} labels"

    def audit(self) -> pd.DataFrame:
        """Findings about the documents, the same for all arms; see `lib.data.auditing.audit`."""
        return audit(self.splits, on_leakage=self.params.audit)

    def open(self) -> None:
        """Own the folder (`Owner`), open it (`open_run`), and measure memory from here on.

        Raises `InputError` if the model cannot be read, the teacher cannot teach these documents,
        or another process owns the folder; an earlier run in it stays as it was then.
        """
        self._unsearch()
        if not reading.reads_all(self.params):
            for load in (load_tokenizer, load_config):  # before an earlier run is replaced
                load(self.params.model_id, self.params.model_revision)
        self.inputs = describe_inputs(self.params, self.splits)
        if getattr(self.params, "teacher", ""):
            self.inputs["teacher_fingerprint"] = check_teacher(
                self.params.teacher_dir,
                self.label_space,
                data_fingerprint=self.inputs["data_fingerprint"],
                multi_label=self.params.multi_label,
            )
        self.owner = Owner.take(self.params.run_dir)
        self.folder = open_run(self.params, **self.inputs)
        self._opened = touched(self.folder / "params.yaml")
        self.checkpoints = self.folder / "checkpoints"  # from which the run resumes
        reset_peak_memory(self.device)
        self.peaks: list[float] = []  # GiB of other processes that have trained for it

    @contextlib.contextmanager
    def timed(self, split: str, step: str = "answers") -> Iterator[None]:
        """Measure a block as a step of a split's work; of a repeated step the last time counts."""
        start = meter(self.device)
        yield
        self.pay(split, step, meter(self.device) - start)

    def pay(self, split: str, step: str, cost: Cost) -> None:
        """Set the cost of a step of a split's work, in place of an earlier cost of that step."""
        self._paid[split, step] = cost

    def cost(self, split: str) -> Cost:
        """Seconds and joules of all steps of "train", "validation", "test" or "search"."""
        return sum((c for (of, _), c in self._paid.items() if of == split), NO_COST)

    @cached_property
    def train_counts(self) -> np.ndarray:
        """Training documents of each label, (C,) int64."""
        return count_labels(self.splits["train"]["labels"], self.label_space)

    def truth(self, split: str) -> np.ndarray:
        """Labels of a split's documents, (N, C) bool; sparse if labels are many."""
        return self.label_space.encode(self.splits[split]["labels"])

    def tokenize(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[list[int]]]:
        """Token ids of all documents, cached on disk; see `lib.runs.reading.tokenize`."""
        return reading.tokenize(self.params, tokenizer, self.splits)

    def encode(self, tokenizer: PreTrainedTokenizerBase, split: str) -> list[list[int]]:
        """Token ids of a split's documents, computed anew: a part of what is timed."""
        return reading.encode(self.params, tokenizer, self.splits[split]["text"])

    def targets(self) -> Sequence[Any]:
        """Training targets of the head, one per document, as `finetune_embedding` takes them.

        The label's index; a list of indices where documents may have several labels; or, where the
        arm has a teacher, (C,) float32 `soft_targets`, whose seconds count as training.
        """
        params: EmbeddingParams = self.params
        if params.teacher:
            targets, spent = soft_targets(
                params.teacher_dir,
                self.splits["train"],
                self.label_space,
                file=self.folder / "checkpoints" / "targets.npy",
                device=self.device,
            )
            self.pay("train", "teacher", spent)
            log.info("%s scored %s documents in %.0f s",
                     params.teacher, f"{len(targets):,}", spent.seconds)  # fmt: skip
            return targets
        indices = self.label_space.indices(self.splits["train"]["labels"])
        return indices if params.multi_label else [labels[0] for labels in indices]

    def frozen_features(
        self, tokenizer: PreTrainedTokenizerBase, poolings: Sequence[str], layers: Sequence[int]
    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
        """Pooled states of the untrained model and their costs; see `lib.head.frozen`.

        The cost of each split's states counts for that split.
        """
        params = self.params
        features, costs = frozen_features(
            params.model_id,
            self.tokenize(tokenizer),
            revision=params.model_revision,
            poolings=poolings,
            layers=layers,
            quantization=params.quantization,
            dtype=self.dtype,
            device=self.device,
            token_budget=params.token_budget,
            depth=getattr(params, "depth", 0),
            fast=params.fast,
        )
        for name in self.splits:
            self.pay(name, "frozen features", Cost(*costs[name]["spent"]))
        return features, costs

    def cache_lower_layers(
        self, model: nn.Module, documents: Mapping[str, Sequence[Sequence[int]]]
    ) -> dict[str, list[np.ndarray]]:
        """Hidden states that enter the first adapted layer, per split one array per document.

        Layers below the adapters never change: their states are computed once for all runs that
        share them, and cached. The cost of that pass counts in each of these runs. Empty if nothing
        is trained, or `lib.model.cache_lower_layers` finds caching useless or impossible.
        """
        params: FinetuneParams = self.params
        if not params.num_epochs:
            return {}
        attention = getattr(params, "bidirectional", False)
        weights = self.inputs["model_fingerprint"]
        with first_alone(params.threads):
            states, costs = cache_lower_layers(
                model,
                documents,
                compute_dtype=self.dtype,
                fingerprint=f"{weights} {params.quantization} {attention}",
                token_budget=params.token_budget,
            )
        for name in states:
            self.pay(name, "cached layers", costs[name])
        return states

    def tune_threshold(self, scores: Scores) -> float:
        """Threshold of highest micro-F1 on validation; infinite with one label per document."""
        if not self.params.multi_label:
            return np.inf
        empty = self.label_space.may_be_empty
        return tune_threshold(self.truth("validation"), scores, may_be_empty=empty)

    def choose(self, scores: Scores, threshold: float) -> Labels:
        """Label sets, (N, C) bool: labels that score at least the threshold.

        The best label is in the set in any case, unless documents of the study may have none.
        """
        return scores.labels_above(threshold, may_be_empty=self.label_space.may_be_empty)

    def labels_above(self, scores: Scores, threshold: float) -> list[list[str]]:
        """Names of each document's labels; see `choose`."""
        return self.label_space.to_names(self.choose(scores, threshold))

    def machine_resources(self) -> dict[str, Any]:
        """Resources that every run has: device, threads, precision, peak memory and disk."""
        return {
            "peak_memory_gib": max(peak_memory_gib(self.device), *self.peaks, 0.0),
            "model_disk_gib": saved_gib(self.folder),
            "device": self.device.type,
            "num_threads": self.params.threads,
            "dtype": str(self.dtype).removeprefix("torch.") if self.loads_model else None,
        }

    def resources(self, model: nn.Module) -> dict[str, Any]:
        """Resources of a language model's run: `machine_resources`, and those of its weights."""
        backbone = pretrained(model)
        trainable, total = count_parameters(model)
        return self.machine_resources() | {
            "trainable_params": trainable,
            "total_params": total,
            "model_memory_gib": backbone.get_memory_footprint() / GIB,
            "quantization": backbone.quantization,
            "nf4_share": backbone.nf4_share,
        }

    def save(
        self,
        preds: Mapping[str, list[list[str]]],
        scores: Mapping[str, Scores],
        *,
        threshold: float | None,
        probabilities: bool,
        resources: Mapping[str, Any],
        history: pd.DataFrame | None = None,
        tables: Mapping[str, pd.DataFrame] = {},
    ) -> dict[str, float | int | None]:
        """Write the results of the run, its metrics last, and return the metrics.

        A signal that asks to stop meanwhile is ignored: the run is finished. It may be saved again.
        Raises `InputError` if another process has taken the folder over.

        Parameters
        ----------
        preds, scores, probabilities
            See `lib.runs.record.write_run`.
        threshold
            Least score of a label in a set; ignored with one label per document.
        resources
            Of the model and of training; those of a search and of answering are added here.
        tables
            Other tables that the report shows, by file name; empty ones are not written.
        """
        if self.owner.released:  # the notebook's cell runs again
            self.owner = Owner.take(self.folder)
        self.owner.require()
        if touched(self.folder / "params.yaml") != self._opened:
            self.owner.release()
            raise InputError(f"{self.folder}: was run again since; run the notebook from its start")
        for name, table in tables.items():
            if not table.empty:
                with atomic_path(self.folder / f"{name}.csv") as path:
                    table.to_csv(path, index=False)
        num_test, num_train = len(self.splits["test"]), len(self.splits["train"])
        searched, (seconds, joules) = self.cost("search"), self.cost("test")
        trained = {}
        if searched.seconds:  # joules may be unknown
            trained = {key: resources[key] + x for key, x in zip(SPENT, searched, strict=True)}
        added = trained | {
            "infer_docs_per_second": num_test / seconds,
            "infer_joules_per_doc": joules / num_test,
            "test_cut_share": reading.share_cut(self.params, self.splits["test"]["text"]),
            "train_documents": num_train,
        }
        with contextlib.suppress(Stopped), noting_signals():
            metrics = write_run(
                self.folder,
                splits=self.splits,
                label_space=self.label_space,
                preds=preds,
                scores=scores,
                multi_label=self.params.multi_label,
                probabilities=probabilities,
                threshold=threshold if self.params.multi_label else None,
                history=history,
                resources=dict(resources) | added,
            )
            write_card(self.folder, self.params, self.inputs, num_train=num_train)
            self.owner.release()
        return metrics
