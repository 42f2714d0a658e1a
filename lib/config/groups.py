"""Groups of parameters below an arm: model, adapter, training, head and prompt."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from lib.config.choices import (
    DECODINGS,
    HEADS,
    LORA_VARIANTS,
    LOSSES,
    POOLINGS,
    SET_DECODINGS,
    TRACKERS,
)
from lib.config.group import Count, Distinct, Group, Name, Positive, Share


class ModelParams(Group):
    """The language model and how it is loaded; see `lib.model.load.load_backbone`."""

    quantization: Literal["nf4", "none"] = "nf4"
    """4-bit NormalFloat weights, or "none": weights as stored"""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """precision of the arithmetic"""
    fast: bool = True
    """packing, fused adapters, compiled blocks and cached layers; false: plain and slower"""


class LoraParams(Group):
    """The adapter; see `lib.model.adapters.add_lora`."""

    lora_r: Count = 8
    """rank; 0: full fine-tuning (needs quantization "none")"""
    lora_alpha: Positive = 16
    """numerator of the adapter's scale, alpha / r"""
    lora_dropout: Share = 0.0
    """dropout on the adapter's input"""
    lora_variant: Literal[*LORA_VARIANTS] = "lora"
    """kind of adapter: "lora", "rslora" (scale by sqrt(r)) or "dora" (magnitude apart)"""
    lora_layers: Count = 0
    """adapted layers, the last ones; 0: all"""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """layers with adapters: all linear ones, or a list of names"""


class TrainParams(Group):
    """The optimizer and the schedule; see `lib.training.finetune`."""

    num_epochs: Count = 3
    """passes over the training documents"""
    min_steps: Count = 0
    """least optimizer steps; few documents get more epochs"""
    batch_size: Positive = 8
    """documents per optimizer step"""
    learning_rate: PositiveFloat = 2.0e-3
    """peak, then linear decay to 0; QLoRA took 2.0e-4 for 7B models"""
    warmup_share: Share = 0.06
    """share of the steps over which the rate rises from 0"""
    weight_decay: NonNegativeFloat = 0.0
    """weight decay of AdamW"""
    eval_steps: Count = 0
    """also evaluate every N steps, for the curves; 0: after each epoch only"""
    save_steps: Count = 0
    """also save a checkpoint every N steps, to resume from; 0: after each epoch only"""
    num_processes: Positive = 1
    """processes that share each optimizer step, one per GPU"""
    memory_gib: NonNegativeFloat = 0.0
    """GiB that the run should stay below; 0: all that the device has"""
    report_to: Annotated[list[Literal[*TRACKERS]], Distinct] = ["tensorboard"]
    """trackers of the training's curves: also "mlflow" and "wandb"; []: none"""

    def with_min_steps(self, num_train: int) -> Self:
        """The same, with enough epochs over `num_train` documents for `min_steps` optimizer steps.

        Few documents need more passes; without them a learning curve would show too few steps
        rather than too few documents.
        """
        steps_per_epoch = math.ceil(num_train / self.batch_size)
        num_epochs = max(self.num_epochs, math.ceil(self.min_steps / steps_per_epoch))
        return self.model_copy(update={"num_epochs": num_epochs})


class HeadParams(Group):
    """The pooling head and its loss; see `lib.head`."""

    pooling: Literal[*POOLINGS, "attention"] = "mean"
    """of hidden states: also "last", "cls" (first), "weighted_mean", "max", "attention" (learnt)"""
    bidirectional: bool = False
    """let a decoder's tokens attend to those after them"""
    head: Literal[*HEADS] = "linear"
    """classifier: "linear", or "mlp" (one hidden layer)"""
    head_bias: bool = True
    """bias of the head's outputs; false: transformers can serve pooling "last" (docs/serving.md)"""
    head_learning_rate: NonNegativeFloat = 0.0
    """learning rate of the head; 0: learning_rate"""
    loss: Literal[*LOSSES] = "cross_entropy"
    """loss: also "focal", "asymmetric" (label sets) or "logit_adjusted" """
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced": labels count inversely to their frequency"""
    label_smoothing: Share = 0.0
    """share of each target that is spread over all labels"""
    teacher: Name | Literal[""] = ""
    """another arm of the study, whose probabilities are learnt too"""

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        needed = {"loss": "cross_entropy", "class_weights": "none"} if self.teacher else {}
        for name, value in needed.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} does not suit a teacher's probabilities; "
                    f'write "{value}" or leave teacher out'
                )
        return self


class PromptParams(Group):
    """The prompt and how its answer is read; see `lib.prompt`."""

    instruction: Annotated[str, Field(min_length=1)] = "Name the topic of this text."
    """request to the model"""
    template: Literal["chat", "plain"] = "chat"
    """the model's own chat template, or plain text"""
    labels_in_prompt: bool = False
    """list all labels behind the instruction"""
    verbalizer: Literal["text", "name", "code"] = "text"
    """word for a label: its text (label_names), its name in the data, or a short code"""
    num_examples: Count = 0
    """answered training documents in the prompt (few-shot)"""
    example_choice: Literal["random", "balanced", "nearest"] = "random"
    """choice of the examples: "random", "balanced" over the labels, or "nearest" to the text"""
    decoding: Literal[*DECODINGS, *SET_DECODINGS[1:]] = "score"
    """decoding of validation and test; see docs/prompt.md"""
    num_generated: Count = 100
    """validation documents that are answered by every decoding, from free to forced"""

    @model_validator(mode="after")
    def _check_examples(self) -> Self:
        if self.example_choice != "random" and not self.num_examples:
            raise ValueError("example_choice: has no effect while num_examples is 0")
        return self
