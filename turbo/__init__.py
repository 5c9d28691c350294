"""TurboDiffusion: Wan models distilled to 1-4 steps, with sparse-linear attention and 8-bit layers."""
