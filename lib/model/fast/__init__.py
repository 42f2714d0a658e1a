"""The same hidden states, sooner: packed attention, fused LoRA, compiled blocks, cached layers."""
