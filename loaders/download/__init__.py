"""Model files on this machine: where they lie, whether they are whole, and how a missing one is fetched. No ComfyUI import."""
