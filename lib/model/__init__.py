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

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
