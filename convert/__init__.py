"""From a published model in 16 or 32 bits to a smaller file, layer by layer."""
