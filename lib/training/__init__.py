"""One training loop for both approaches.

finetune       head or prompt: the loss of each, and the training of both
evaluate       F1 scores of each, and the ladder: one prompt model, answering by each decoding
trackers       TensorBoard, MLflow and Weights & Biases
trainer        optimizer steps of micro-batches, on transformers' Trainer
processes      several processes that share each optimizer step
sharing        the part of one of these processes
callbacks, checkpoints      evaluations, checkpoints and progress; which checkpoints are kept
"""

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
