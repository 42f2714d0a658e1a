"""One training loop for both approaches.

finetune       head or prompt: the loss of each, and how both train
evaluate       F1 scores of each, and the ladder: one model that answers in every way
trackers       TensorBoard, MLflow and Weights & Biases
trainer        optimizer steps of micro-batches, on transformers' Trainer
processes      several processes that share each step; sharing: each one's part of it
"""

from lib.training.evaluate import climb_ladder, evaluate_embedding, evaluate_instruction
from lib.training.finetune import finetune_embedding, finetune_instruction
from lib.training.processes import in_processes

__all__ = [
    "climb_ladder",
    "evaluate_embedding",
    "evaluate_instruction",
    "finetune_embedding",
    "finetune_instruction",
    "in_processes",
]
