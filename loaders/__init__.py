"""From a variant id to a ready ComfyUI object."""
