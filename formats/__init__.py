"""Model files as bytes: their headers, whether they are whole, and their tensors as they were stored. No ComfyUI import."""
