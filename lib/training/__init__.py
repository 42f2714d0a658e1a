"""One training loop for both approaches.

finetune       head or prompt: the loss of each, and how both train
evaluate       F1 scores of each, and the ladder: one model that answers in every way
trackers       TensorBoard, MLflow and Weights & Biases
trainer        optimizer steps of micro-batches, on transformers' Trainer
processes      several processes that share each step; sharing: each one's part of it
"""

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
