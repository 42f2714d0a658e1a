"""Approach 1: pool the hidden states of a document into one embedding, and classify it.

pooling        the pooled embedding and the head on it
classifiers    heads: linear or with a hidden layer
losses         losses, for one label or label sets
chunked        losses and predictions of very many labels
model          a backbone with a head, and what it predicts
frozen         embeddings of an untrained model
"""

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
