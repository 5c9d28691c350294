"""Whether a job fits a card and which weights to take: arithmetic, without ComfyUI."""
