"""The speed engine: the same states and gradients within rounding, sooner.

packing, attention, packed_attention    documents end to end, without padding
blocks          compiled blocks; a last block that computes what is read; checkpointing
lora_linear     adapters added within the matrix products of their layer
cached_layers   states below the first adapted layer, computed once

Only `lib.model` imports it. `load_backbone(..., fast=False)` switches it off.
"""
