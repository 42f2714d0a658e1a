"""A quantized backbone with LoRA adapters, and its hidden states.

load          a pretrained model, in NF4 or as stored; its tokenizer
adapters      LoRA: added, saved and loaded
forward       the one way to hidden states and logits
tokens        texts as token ids
windows       long texts as several sequences
batches       micro-batches of documents
memory        memory that a model takes, and training that fits into it
weights       where a model's files are
checks, probes          a first pass over two documents; shortcuts compared with plain passes
int8          linear layers in int8, for predictions on a CPU
bidirectional, parts, quantization    small parts of the above
fast/         the same states and gradients, sooner; `fast=False` switches all of it off
"""

from lib.model.adapters import add_lora, load_lora
from lib.model.fast.cached_layers import cache_lower_layers
from lib.model.forward import last_hidden_states, next_token_logits
from lib.model.load import count_parameters, load_backbone, load_config, load_tokenizer
from lib.model.tokens import encode_documents

__all__ = [
    "add_lora",
    "cache_lower_layers",
    "count_parameters",
    "encode_documents",
    "last_hidden_states",
    "load_backbone",
    "load_config",
    "load_lora",
    "load_tokenizer",
    "next_token_logits",
]
