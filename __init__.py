"""SteadyDancer for ComfyUI: a picture of a person and a dance video in, a video of that person dancing out."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> "ComfyExtension":
    """Called by ComfyUI once at start. Nothing is imported before, so the package also loads without ComfyUI."""
    from .services.second_copy import SecondCopy, copy_in_use

    first = copy_in_use()
    if first:
        return SecondCopy(first)
    from .nodes import SteadyDancerExtension

    return SteadyDancerExtension()
