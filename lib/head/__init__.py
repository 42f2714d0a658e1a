"""Approach 1: pool the hidden states of a document into one embedding, and classify it.

pooling        the pooled embedding and the head on it
classifiers    heads: linear or with a hidden layer
losses         losses, for one label or label sets
chunked        losses and predictions of very many labels
model          a backbone with a head, and what it predicts
frozen         embeddings of an untrained model
"""

from lib.head.frozen import frozen_features
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits, predict_probabilities
from lib.head.pooling import PoolingHead, pool

__all__ = [
    "EmbeddingModel",
    "HeadLoss",
    "PoolingHead",
    "frozen_features",
    "pool",
    "predict_logits",
    "predict_probabilities",
]
