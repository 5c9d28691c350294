"""Packed weights: GGUF block types and fp8, how they become numbers, and the ops that multiply with them."""
