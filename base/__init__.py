"""What every room may use. Standard library only, no ComfyUI import."""
