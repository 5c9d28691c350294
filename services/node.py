"""What every node of this package is."""

from typing import Any

from comfy_api.latest import io

from .progress import told


class Node(io.ComfyNode):
    """A node that says under itself why it fails."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        execute = cls.__dict__["execute"].__func__
        if not hasattr(execute, "__wrapped__"):  # ComfyUI copies a class, with all that is in it, for each run
            cls.execute = classmethod(told()(execute))  # type: ignore[assignment]
