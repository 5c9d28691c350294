"""Predicted against measured GPU memory of a whole SteadyDancer 14B with random weights. Needs an NVIDIA GPU to mean anything.

    python benchmarks/vram.py --comfyui PATH [--kinds bf16 fp8 Q4_K] [--keys 14b|tiny]

One evaluation a size and kind, VAE decode and encode at two areas, and the pose nets. The first size calibrates, the others
show what the calibration is worth. On a CPU it runs (`--keys tiny`) and measures nothing. Nothing is written to disk.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from quantised_step import state_dict

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import activations  # noqa: E402

SHAPES = {"480p×33": (832, 480, 33), "480p×81": (832, 480, 81), "1024×576×81": (1024, 576, 81)}
VAE_SHAPES = {"480p×33": (832, 480, 33), "1024×576×33": (1024, 576, 33)}
SMALL = {"64×64×5": (64, 64, 5), "96×64×9": (96, 64, 9)}  # without a GPU, only to see that it runs


def fp8(tensors: dict) -> dict:
    """The Linear weights of the blocks as plain e4m3."""
    return {
        key: value.to(torch.float8_e4m3fn) if key.startswith("blocks.") and value.ndim == 2 else value
        for key, value in tensors.items()
    }


def present_card():
    """The card of the planner's table that this is, or a computer without one."""
    from steadydancer.machine import gpus
    from steadydancer.planning.plan import Card

    if not torch.cuda.is_available():
        return Card("this computer", 0, 0, 0)
    device = torch.cuda.get_device_properties(0)
    sm = 10 * device.major + device.minor
    card = gpus.known_as(torch.cuda.get_device_name()) or gpus.nearest(device.total_memory, sm)
    # ComfyUI switches its own CUDA kernels on from CUDA 13.
    return replace(card, sm=sm, fused=int((torch.version.cuda or "0").partition(".")[0]) >= 13)


def model_of_kind(keys: str, kind: str):
    import comfy.sd
    from steadydancer.quant.ops import packed_operations
    from steadydancer.quant.patches import with_packed_patches

    tensors = state_dict(keys, "bf16" if kind == "fp8" else kind)
    options = {"custom_operations": packed_operations()} if kind.startswith("Q") else {}
    if kind == "fp8":
        tensors = fp8(tensors)
    else:
        options["dtype"] = torch.bfloat16
    model = comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options)
    return with_packed_patches(model) if kind.startswith("Q") else model


def peak_of(call) -> int:
    """Bytes that torch's allocator held at most; 0 without a GPU."""
    if not torch.cuda.is_available():
        call()
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def evaluate(model, width: int, height: int, frames: int) -> None:
    t, h, w = (frames - 1) // 4 + 1, height // 8, width // 8
    device, dtype = model.load_device, model.model.get_dtype_inference()

    def noise(*shape):
        return torch.randn(1, *shape, device=device, dtype=dtype)

    inputs = {"x": noise(36, t, h, w), "context": noise(512, 4096), "pose_latents": noise(16, t, h, w)}
    features = {"clip_fea": noise(257, 1280), "clip_fea_pose": noise(257, 1280)}
    with torch.no_grad():
        model.model.diffusion_model(timestep=torch.full((1,), 500.0, device=device), **inputs, **features)


def sampling_rows(args):
    import comfy.model_management as mm
    from steadydancer.planning.estimate import activation_bytes
    from steadydancer.planning.job import job_for
    from steadydancer.planning.model_sizes import model_of

    card = present_card()
    for kind in args.kinds:
        model = model_of_kind(args.keys, kind)
        mm.load_models_gpu([model], force_full_load=True)
        weights = model.model_size()
        known = model_of("steadydancer/" + {"bf16": "fp16", "fp8": "fp8", "Q4_K": "Q4_K_M"}[kind], [])
        unpacked = known.unpacks if kind != "bf16" else 0
        factor = None
        for name, size in args.shapes.items():
            activation = activation_bytes(job_for("steadydancer/fp8", *size), card, known, 1)
            measured = peak_of(partial(evaluate, model, *size))
            factor = factor or max(0.1, (measured - weights - unpacked) / activation)
            predicted = weights + unpacked + activation
            yield f"sampling {kind} {name}", predicted, weights + unpacked + factor * activation, measured
        mm.unload_all_models()
        del model


def vae_rows(args):
    from steadydancer.planning.estimate import vae_bytes
    from steadydancer.planning.job import job_for

    card = present_card()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = activations.vae_network(96, device, torch.bfloat16, vae_attention())
    weights = sum(parameter.nbytes for parameter in network.parameters())
    for direction in ("decode", "encode"):
        factor = None
        for name, (width, height, frames) in args.vae_shapes.items():
            job = job_for("steadydancer/fp8", width, height, frames)
            x = activations.vae_input(
                direction, ((frames - 1) // 4 + 1, job.height // 8, job.width // 8), device, torch.bfloat16
            )
            with torch.no_grad():
                measured = peak_of(partial(getattr(network, direction), x))
            activation = vae_bytes(job, card, direction, 0)
            factor = factor or max(0.1, (measured - weights - x.nbytes) / activation)
            yield f"VAE {direction} {name}", weights + activation, weights + factor * activation, measured


def pose_rows():
    """The pose nets, whose batches are cut to what is free: their own number is what the plan reserves."""
    from steadydancer.planning.model_sizes import kinds
    from steadydancer.pose.rtmpose import PoseNet
    from steadydancer.pose.yolox import YOLOX

    reserved = kinds()["parts"]["pose"]
    predicted = reserved["weights"] + reserved["activations"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        detector, pose = YOLOX(1.0, 1.0, 80).eval(), PoseNet(1.0, 1.0, 288, 384, False).eval()
        frames, crops = torch.zeros(1, 3, 640, 640), torch.zeros(4, 3, 384, 288)

    def detect_and_estimate():
        with torch.no_grad():
            detector(frames)
            pose(crops)

    yield "pose nets, 4 crops", predicted, predicted, peak_of(detect_and_estimate)


def vae_attention():
    from comfy.ldm.modules.diffusionmodules.model import vae_attention as chosen

    return chosen()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--kinds", nargs="+", default=["bf16", "fp8", "Q4_K"], choices=["bf16", "fp8", "Q4_K"])
    parser.add_argument("--keys", choices=("14b", "tiny"), default="14b")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    args.shapes, args.vae_shapes = (SHAPES, VAE_SHAPES) if gpu else (SMALL, SMALL)
    activations.load(args.comfyui, cpu=not gpu)
    from steadydancer.dancer.model import register

    register()
    print(
        f"{'phase':<28} {'predicted GB':>12} {'calibrated GB':>13} {'measured GB':>11} {'ratio':>6} {'calibrated':>10}"
    )
    for rows in (sampling_rows(args), vae_rows(args), pose_rows()):
        for name, predicted, calibrated, measured in rows:
            ratios = [f"{value / measured:.3f}" if measured else "-" for value in (predicted, calibrated)]
            numbers = f"{predicted / 1e9:>12.2f} {calibrated / 1e9:>13.2f} {measured / 1e9:>11.2f}"
            print(f"{name:<28} {numbers} {ratios[0]:>6} {ratios[1]:>10}", flush=True)
    if not gpu:
        print("no GPU: nothing was measured")


if __name__ == "__main__":
    main()
