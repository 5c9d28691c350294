"""Packed weights: GGUF block types, fp8 and 8-bit tiles, how they become numbers, and the ops that multiply with them."""
