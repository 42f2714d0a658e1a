from .losses import HeadLoss as HeadLoss
from .model import predict_logits as predict_logits
from .model import predict_probabilities as predict_probabilities
from .pooling import PoolingHead as PoolingHead
from .pooling import pool as pool
