"""What an evaluation of SteadyDancer costs: seconds, peak memory, and how far that is from the machine's own floor.

    python dev.py run -- python benchmarks/sampling.py              tiny weights on the CPU
    python benchmarks/sampling.py --comfyui PATH [--quick]          14B random weights on a GPU

On a GPU it needs only ComfyUI's own Python. It runs fp16 (which ComfyUI chooses for Wan), bf16 and scaled fp8 at 832×480×81
and 1024×576×81 (latent 21×104×60 and 21×128×72): under dynamic memory, which is what users have, and statically, whole on
the card where it fits and with half of the blocks streamed from host memory.
The floor is FLOPs over the rate of a large bf16 matrix product measured in the same run.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"832×480×81": (21, 60, 104), "1024×576×81": (21, 72, 128)}
TINY_SIZES = {"64×96×17": (5, 12, 8), "128×192×33": (9, 24, 16), "256×384×33": (9, 48, 32)}
LAYOUT_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
LAYOUT_TINY = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="the folder of ComfyUI")
    parser.add_argument("--quick", action="store_true", help="one size, one dtype")
    arguments = parser.parse_args()
    load_package(arguments.comfyui)

    import torch

    gpu = torch.cuda.is_available()
    print(f"{torch.cuda.get_device_name() if gpu else 'CPU'}, torch {torch.__version__}")
    rate = matmul_rate(torch, gpu)
    print(f"large matrix product: {rate / 1e12:.2f} TFLOP/s\n")
    print(f"{'dtype':<12}{'size':<14}{'placement':<12}{'s/evaluation':>13}{'floor s':>9}{'of floor':>9}{'peak GB':>9}")
    dtypes = ["fp16", "bf16", "fp8 scaled"] if gpu else ["fp32"]
    dynamic = start_dynamic_memory() if gpu else False
    sizes = SIZES if gpu else TINY_SIZES
    if arguments.quick:
        dtypes, sizes = dtypes[:1], dict(list(sizes.items())[:1])
    layout = LAYOUT_14B if gpu else LAYOUT_TINY
    for dtype in dtypes:
        for placement in ("dynamic", "resident", "streamed") if gpu else ("resident",):
            if placement == "dynamic" and not dynamic:
                print("dynamic memory does not start here: what users have is not measured")
                continue
            model = build(torch, layout, dtype, placement)
            if placement == "resident" and model.loaded_size() < model.model_size():
                placement = "partly"
            for name, size in sizes.items():
                seconds, peak = measure(torch, model, size)
                floor = flops(layout, size) / rate
                print(
                    f"{dtype:<12}{name:<14}{placement:<12}{seconds:>13.3f}{floor:>9.3f}{seconds / floor:>8.1f}×{peak:>9.2f}",
                    flush=True,
                )
            model.detach()
            del model


def load_package(comfyui: str | None) -> None:
    if not comfyui:
        sys.exit("Say where ComfyUI is: --comfyui PATH, or run this through `python dev.py run --`.")
    sys.path[:] = [comfyui, *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    sys.argv = sys.argv[:1]
    import comfy_aimdo.control

    comfy_aimdo.control.init()  # as ComfyUI's main.py does, before torch is there
    import cuda_malloc  # noqa: F401 - ComfyUI's choice of an allocator
    from comfy.cli_args import args

    import_torch = importlib.import_module("torch")
    args.cpu = not import_torch.cuda.is_available()
    if args.cpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
    spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
    cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    cli.load_package()
    from steadydancer.dancer.model import register

    register()


def start_dynamic_memory() -> bool:
    """Dynamic memory as ComfyUI's main.py starts it; False where its library does not work."""
    import comfy.model_management
    import comfy_aimdo.control

    devices = [device.index for device in comfy.model_management.get_all_torch_devices()]
    if not comfy_aimdo.control.init_devices(devices):
        return False
    comfy_aimdo.control.set_log_warning()
    return True


def matmul_rate(torch, gpu: bool) -> float:
    """FLOP/s of one large product in the working dtype."""
    n, dtype, device = (8192, torch.bfloat16, "cuda") if gpu else (2048, torch.float32, "cpu")
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        best = min(best, timed(torch, lambda: a @ b))
    return 2 * n**3 / best


def build(torch, layout: dict, dtype: str, placement: str):
    """A ModelPatcher with random weights, loaded as ComfyUI loads a file: `placement` dynamic, resident or streamed."""
    import comfy.memory_management
    import comfy.model_patcher
    import comfy.sd
    from comfy.ops import disable_weight_init
    from steadydancer.dancer.network import SteadyDancerModel

    with torch.device("meta"):
        shapes = SteadyDancerModel(
            model_type="i2v", dtype=torch.bfloat16, operations=disable_weight_init, **layout
        ).state_dict()
    kind = {"fp32": torch.float32, "fp16": torch.float16}.get(dtype, torch.bfloat16)
    tensors, maker = {}, "cuda" if torch.cuda.is_available() else "cpu"  # 16 billion random numbers take a CPU minutes
    for key, meta in shapes.items():
        kept = key.startswith(("patch_embedding", "condition_embedding_"))
        tensor = torch.empty(meta.shape, dtype=torch.float32 if kept else kind, device=maker).normal_(std=0.02)
        if dtype == "fp8 scaled" and key.endswith(".weight") and tensor.ndim == 2 and not kept:
            tensors[key.removesuffix("weight") + "scale_weight"] = torch.ones(1)
            tensor = tensor.to(torch.float8_e4m3fn)
        tensors[key] = tensor.cpu()
    if dtype == "fp8 scaled":
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    options = {} if dtype == "fp8 scaled" else {"dtype": kind}
    dynamic = placement == "dynamic"
    comfy.memory_management.aimdo_enabled = dynamic
    patcher = comfy.model_patcher.ModelPatcherDynamic if dynamic else comfy.model_patcher.ModelPatcher
    comfy.model_patcher.CoreModelPatcher = patcher
    model = comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options, disable_dynamic=not dynamic)
    if placement == "streamed":
        model.load(device_to=model.load_device, lowvram_model_memory=model.model_size() // 2)
    else:
        import comfy.model_management

        comfy.model_management.load_models_gpu([model])
    return model


def measure(torch, model, size: tuple[int, int, int], runs: int = 3) -> tuple[float, float]:
    """Best seconds of an evaluation and the peak in GB: of the card, or of the process where there is none."""
    device = model.load_device
    dtype = model.model.get_dtype_inference()

    def random(*shape):
        return torch.randn(1, *shape, device=device, dtype=dtype)

    inputs = {
        "x": random(36, *size),
        "timestep": torch.tensor([731.0], device=device),
        "context": random(512, 4096),
        "clip_fea": random(257, 1280),
        "clip_fea_pose": random(257, 1280),
        "pose_latents": random(16, *size),
    }
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        seconds = min(timed(torch, lambda: model.model.diffusion_model(**inputs)) for _ in range(runs))
    if gpu:
        pages = model.loaded_size() if model.is_dynamic() else 0  # of which torch's allocator does not know
        return seconds, (torch.cuda.max_memory_allocated() + pages) / 1e9
    return seconds, process_peak() / 1e9


def process_peak() -> int:
    """Bytes of memory that this process had at most."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def timed(torch, work) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else contextlib.nullcontext
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def flops(layout: dict, size: tuple[int, int, int]) -> float:
    """Multiplications and additions of the blocks: two reference frames more than the video, 769 tokens of context."""
    t, h, w = size
    tokens, dim, context = (t + 2) * (h // 2) * (w // 2), layout["dim"], 512 + 257
    linears = 2 * tokens * dim * (4 * dim + 2 * dim + 2 * layout["ffn_dim"]) + 2 * context * dim * 2 * dim
    attention = 4 * tokens * dim * (tokens + context)
    return layout["num_layers"] * (linears + attention)


if __name__ == "__main__":
    main()
