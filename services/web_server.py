"""ComfyUI's web server, for what works without one too: a script or an executor that only loads nodes has none."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server import PromptServer


def web_server() -> "PromptServer | None":
    """ComfyUI's PromptServer, or None where there is none."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def show(text: str, node_id: str, client_id: str | None = None) -> bool:
    """Shows a line under the node, on one page or on all. False where there is no page to show it on.

    Of a node in a subgraph, "12:5", the page shows it only to those who look inside, so the box around it, "12", says it too.
    """
    send = getattr(web_server(), "send_progress_text", None)
    if send is None:
        return False
    boxes = str(node_id).split(":")
    try:
        for depth in range(len(boxes), 0, -1):
            send(text, ":".join(boxes[:depth]), client_id)
    except RuntimeError:  # the server has ended, or its loop never ran: a line less is no reason to fail
        return False
    return True
