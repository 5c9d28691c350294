"""Cancel inside an evaluation, which takes up to a minute: a patch that looks after every block."""

from collections import defaultdict
from collections.abc import Callable

import comfy.model_management
import torch

AHEAD = 2  # blocks that may wait in the GPU's queue: enough that it never runs dry


def prompt_cancel() -> Callable[[dict], dict]:
    """A `double_block` patch that ends the run when it was cancelled, a block or two after that.

    Python hands blocks over much faster than a GPU computes them, and would otherwise have looked for the last time when most
    of an evaluation is still to come. So it waits for the block before the last; the GPU does not wait.
    """
    handed_over: dict[torch.device, list[torch.cuda.Event]] = defaultdict(list)  # two cards may share the branches

    def look(args: dict) -> dict:
        if not torch.compiler.is_compiling():
            if args["img"].is_cuda and not torch.cuda.is_current_stream_capturing():
                device = args["img"].device
                done = torch.cuda.Event(blocking=True)
                done.record(torch.cuda.current_stream(device))
                handed_over[device].append(done)
                if len(handed_over[device]) > AHEAD:
                    handed_over[device].pop(0).synchronize()
            comfy.model_management.throw_exception_if_processing_interrupted()
        return {"img": args["img"]}

    return look
