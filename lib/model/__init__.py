"""A quantized backbone with LoRA, its tokens and its hidden states."""
