"""A pretended CUDA card: fake tensors on `cuda:0` and torch.cuda's runtime stubbed, so that ComfyUI's own loading and placement
run as on a GPU. It finds tensors of two devices in one operation. For a process of its own.

    python fake_cuda.py pose GB USED,USED,… [ComfyUI's flags]    the pose nets on a card of GB, with USED GB taken by others
"""

import contextlib
import os
import sys
from collections import defaultdict
from types import SimpleNamespace

import torch


class Stream:
    device, cuda_stream = torch.device("cuda", 0), 0

    def __init__(self, *args, **kwargs):
        pass

    def wait_stream(self, other):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


def install(gigabytes: float) -> SimpleNamespace:
    """Puts the card in; returns its state, of which `taken` may be set."""
    state = SimpleNamespace(taken=0, total=int(gigabytes * 2**30))
    card = SimpleNamespace(name="pretended card", total_memory=state.total, major=8, minor=9, multi_processor_count=128)
    cudart = SimpleNamespace(cudaHostRegister=lambda *args: 0, cudaHostUnregister=lambda *args: 0)
    cuda = torch.cuda
    for name in ("is_available", "is_initialized", "is_bf16_supported"):
        setattr(cuda, name, lambda *args, **kwargs: True)
    for name in ("init", "_lazy_init", "synchronize", "empty_cache", "ipc_collect", "set_device"):
        setattr(cuda, name, lambda *args: None)
    cuda.device_count, cuda.current_device = lambda: 1, lambda: 0
    cuda.get_device_properties = lambda device=None: card
    cuda.get_device_name = lambda device=None: card.name
    cuda.get_device_capability = lambda device=None: (8, 9)
    cuda.mem_get_info = lambda device=None: (state.total - state.taken, state.total)
    cuda.memory_stats = lambda device=None: defaultdict(int)
    cuda.current_stream, cuda.Stream = lambda device=None: Stream(), Stream
    cuda.stream = cuda.device = lambda device: contextlib.nullcontext()
    cuda.cudart, cuda.get_allocator_backend = lambda: cudart, lambda: "cudaMallocAsync"
    torch.nn.Module._apply = apply
    from torch._subclasses import fake_tensor

    fake_tensor.init_gpu_context = lambda device: None
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    return state


def apply(module, fn, recurse=True):
    """torch's way of moving a module exchanges the inside of its tensors, which fake ones do not allow."""
    for child in module.children():
        child._apply(fn)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = torch.nn.Parameter(fn(parameter), requires_grad=False)
    return module


def pose(state: SimpleNamespace, used: float) -> None:
    import comfy.model_management as mm
    from steadydancer.pose.rtmpose import PoseNet
    from steadydancer.pose.yolox import YOLOX
    from steadydancer.services.pose_nets import Patched

    shapes = {PoseNet: (4, 3, 384, 288), YOLOX: (1, 3, 640, 640)}
    nets = PoseNet(1.0, 1.0, 288, 384, False), PoseNet(1.0, 1.0, 288, 384, True), YOLOX(1.0, 1.0, 80)
    for net in nets:
        patched = Patched(net.eval())
        state.taken = int(used * 2**30)
        mm.load_models_gpu([patched.patcher])
        out = patched(torch.empty(shapes[type(net)], device=patched.device))
        out = out if isinstance(out, tuple) else (out,)
        assert {str(part.device) for part in out} == {"cuda:0"}
        devices = sorted({str(parameter.device) for parameter in net.parameters()})
        print(used, type(net).__name__, *devices, flush=True)
        mm.unload_all_models()


def main() -> None:
    what, gigabytes, used, *flags = sys.argv[1:]
    state = install(float(gigabytes))
    sys.argv = [sys.argv[0], *flags]
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import comfy.options

    comfy.options.enable_args_parsing()
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        for taken in used.split(","):
            {"pose": pose}[what](state, float(taken))


if __name__ == "__main__":
    import support  # noqa: F401  (loads the package)

    main()
