"""One training loop for both approaches.

finetune       head or prompt: the loss and the evaluation of each
trainer        optimizer steps of micro-batches, on transformers' Trainer
ladder         one model, answering in every way
"""

from lib.training.finetune import (
    evaluate_embedding,
    evaluate_instruction,
    finetune_embedding,
    finetune_instruction,
)
from lib.training.ladder import climb_ladder

__all__ = [
    "climb_ladder",
    "evaluate_embedding",
    "evaluate_instruction",
    "finetune_embedding",
    "finetune_instruction",
]
