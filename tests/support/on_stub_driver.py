"""ComfyUI's dynamic placement with its installed library on the stub driver; prints how a planned model fares, as JSON lines.

    python on_stub_driver.py LIBRARY     the compiled stub_libcuda.c

A process of its own, since the library puts its hooks into the driver for good. ComfyUI's patcher and the plan's are the real
ones; the card is called cpu:0, and its memory is only counted: a page is touched as a layer touches it, and nothing is copied.
"""

import ctypes
import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

MB = 1 << 20
CARD, LAYER, LAYERS = 2048 * MB, 32 * MB, 48  # a model of 1.5 GB on a card of 2 GB


def main(library: str) -> None:
    driver = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    driver.stub_card.argtypes, driver.stub_used.restype = [ctypes.c_size_t], ctypes.c_size_t
    driver.stub_card(CARD)
    import comfy_aimdo.control

    comfy_aimdo.control.init("cuda")
    comfy_aimdo.control.set_log_none()
    assert comfy_aimdo.control.init_devices([0])
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar as vbar

    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_management
    import comfy.model_patcher as core
    import comfy.ops
    import torch
    from steadydancer.loaders import placement
    from steadydancer.loaders.run import PlannedRun
    from steadydancer.machine import gpus
    from steadydancer.planning.job import job_for
    from steadydancer.planning.planner import plan_job

    comfy_aimdo.host_buffer.HostBuffer = lambda *args: SimpleNamespace(size=0)
    comfy.model_management.is_device_cpu = lambda device: device.index is None
    plan = plan_job(job_for("steadydancer/fp16", 64, 64, 17), gpus.card("RTX 4090"))

    def model():
        side = int((LAYER // 2) ** 0.5)
        layers = [comfy.ops.manual_cast.Linear(side, side, bias=False, dtype=torch.float16) for _ in range(LAYERS)]
        network = torch.nn.Sequential(*layers).requires_grad_(False)
        network.memory_usage_factor, network.device = 1.0, None
        network.model_loaded_weight_memory = network.model_offload_buffer_memory = network.lowvram_patch_counter = 0
        network.current_weight_patches_uuid, network.model_lowvram = None, False
        return core.ModelPatcherDynamic(network, torch.device("cpu", 0), torch.device("cpu"))

    def planned(resident: int):
        return placement.placed(model(), PlannedRun(replace(plan, kept=1, resident=resident)))

    def evaluate(patcher) -> None:
        """Every layer asks for its page and lets go of it, as ComfyUI's cast does."""
        for layer in patcher.model:
            if vbar.vbar_fault(layer._v) is not None:
                vbar.vbar_unpin(layer._v)

    def activations(size: int) -> bool:
        """Whether so much memory can be had, in pieces as torch's allocator takes it."""
        held = []
        for _ in range(16):
            address = ctypes.c_ulonglong()
            if driver.stub_cuMemAllocAsync(ctypes.byref(address), ctypes.c_size_t(size // 16), None):
                break
            held.append(address)
        for address in held:
            driver.stub_cuMemFreeAsync(address, None)
        return len(held) == 16

    def after_node() -> None:
        vbar.vbars_reset_watermark_limits()

    def run(name: str, patcher, need: int = 0, again: bool = False) -> None:
        for _ in range(1 + again):
            patcher.partially_load(patcher.load_device)
            evaluate(patcher)
            loaded = patcher._vbar_get().loaded_size()
            survives = activations(need) if need else None
            after_node()
        left = patcher._vbar_get().loaded_size()
        print(json.dumps({"name": name, "loaded": loaded // MB, "survives": survives, "left": left // MB}), flush=True)
        patcher.model.dynamic_vbars.clear()
        for layer in patcher.model:
            del layer._v

    run("unplanned", model(), need=1536 * MB)
    run("planned", planned(640 * MB))
    run("planned, more beside than planned", planned(640 * MB), need=1600 * MB)
    run("planned nearly full, more beside than planned", planned(1280 * MB), need=1024 * MB)
    run("clone", planned(640 * MB).clone(), need=1600 * MB)
    run("second run", planned(640 * MB), need=1600 * MB, again=True)


if __name__ == "__main__":
    import support  # noqa: F401  (loads the package)

    main(sys.argv[1])
