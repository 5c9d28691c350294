"""Two copies of this package in one ComfyUI (Manager's and a clone, or a backup): the first one works, the others step aside."""

import inspect
import logging
import sys
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

ROOT = Path(__file__).absolute().parents[1]  # not resolved: two links to one folder are two copies
NODE, MODULE = "SteadyDancerGuider", ".nodes.sampling"


def copy_in_use() -> Path | None:
    """The folder of another copy whose nodes ComfyUI has already, else None."""
    node = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get(NODE)

    if node is None or not getattr(node, "__module__", "").endswith(
        MODULE
    ):  # another package may have a node of that name
        return None
    folder = Path(inspect.getfile(node)).absolute().parents[1]
    return folder if folder != ROOT else None


class SecondCopy(ComfyExtension):
    """Has no nodes, and says why."""

    def __init__(self, first: Path) -> None:
        logging.warning(
            "SteadyDancer is installed twice. %s is used and %s is not: remove one of the two, and restart ComfyUI.",
            first,
            ROOT,
        )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """None of them: the first copy's nodes stay."""
        return []
