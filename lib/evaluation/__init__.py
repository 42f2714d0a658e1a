"""F1 and its uncertainty: arrays in, arrays and tables out; no torch, no files.

Shapes: N documents, C labels, K scores kept per document (or K of something that the function
names), S training seeds, R resamples, and G groups of documents. An arm is one way to classify
that a study compares, such as the head; its predictions are stacked over its seeds.

scores         scores of documents by labels, all of them or each document's best
metrics        F1 and ranking metrics of one prediction; the threshold for label sets
resampling     F1 over resampled documents, and over exchanges of two arms' answers
jackknife      F1 with one document or group left out
intervals      95 % intervals of F1 and of paired differences
significance   every pair of arms: interval, p, Holm's adjustment
power          the smallest difference that would have been found
curves         F1 against training documents, and where curves cross
design         documents in groups as fewer independent ones
slices         F1 over parts of the test split
pooled         effects on many tasks
calibration    confidence against accuracy, and what could be automated by it
"""

from lib.evaluation.curves import crossings, learning_curves, resample_curves
from lib.evaluation.metrics import f1_scores
from lib.evaluation.scores import Scores
from lib.evaluation.significance import compare_all
from lib.evaluation.slices import f1_by_part

__all__ = [
    "Scores",
    "compare_all",
    "crossings",
    "f1_by_part",
    "f1_scores",
    "learning_curves",
    "resample_curves",
]
