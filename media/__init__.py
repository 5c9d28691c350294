"""Video and sound files: opened safely, read within the memory there is, written with the workflow inside. No ComfyUI import."""
