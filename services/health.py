"""GET /steadydancer/health: whether this server can work and how far it is, for container checks and load balancers.

200, or 503 where a new prompt would fail. Whoever reaches the server may read it: no path, no name of a file, no secret.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import folder_paths
import torch

from ..loaders.download import room
from . import r2_watch, sampling
from .web_server import web_server

if TYPE_CHECKING:
    from aiohttp import web

ROUTE = "/steadydancer/health"
LEAST_DISK = 200_000_000  # bytes: a video and ComfyUI's own files


def start() -> None:
    """Adds the route where there is a web server, once a process."""
    routes = getattr(web_server(), "routes", None)
    if routes is not None and ROUTE not in [getattr(route, "path", "") for route in routes]:
        from aiohttp import web

        @routes.get(ROUTE)
        async def health(request: "web.Request") -> "web.Response":
            found = state()
            return web.json_response(found, status=200 if found["healthy"] else 503)


def state() -> dict[str, Any]:
    """What the route answers. Times are in seconds, `gb` are 10⁹ bytes."""
    device, disk = usable(comfy.model_management.get_torch_device()), disk_left()
    steps, watch = sampling.running, r2_watch.running
    return {
        "healthy": device and disk >= LEAST_DISK,
        "device_usable": device,
        "disk_left_gb": round(disk / 1e9, 1),
        **queue(),
        "sampling": steps and {"step": steps.step, "of": steps.count, "seconds_left": steps.left},
        "r2_waiting": watch.status().get("waiting", 0) if watch else None,
    }


def usable(device: torch.device) -> bool:
    """Whether the device still answers. After a fault in a kernel CUDA refuses everything until the process ends."""
    try:
        if device.type == "cuda":
            torch.cuda.mem_get_info(device)  # which waits for nothing that runs
        return True
    except RuntimeError:
        return False


def disk_left() -> int:
    """Bytes free where results go; where less, where temporary files go."""
    folders = (folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    return min(room.usage(Path(folder, "any")).free for folder in folders)


def queue() -> dict[str, Any]:
    """How much waits and for how long, and what kind of error the latest prompt ended with."""
    server = web_server()
    if server is None:
        return {}
    now = time.time() * 1000
    running, waiting = server.prompt_queue.get_current_queue_volatile()
    oldest = min((item[3].get("create_time", now) for item in waiting), default=now)
    messages = [
        m for entry in server.prompt_queue.get_history(max_items=1).values() for m in entry["status"]["messages"]
    ]
    error = next(
        (data["exception_type"].rpartition(".")[2] for name, data in messages if name == "execution_error"), None
    )
    return {
        "running": len(running),
        "waiting": len(waiting),
        "oldest_waits_seconds": round((now - oldest) / 1000, 1),
        "last_error": error,
    }
