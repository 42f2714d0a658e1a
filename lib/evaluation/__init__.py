"""F1 and how sure it is: arrays in, arrays out."""

from lib.evaluation.metrics import f1_scores

__all__ = ["f1_scores"]
