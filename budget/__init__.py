"""What a job needs of a card, worked out before anything is loaded. No ComfyUI, no torch, no GPU."""
