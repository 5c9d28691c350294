#!/usr/bin/env python3
"""A card in ten minutes: are the kernels right, what does an evaluation of the 14B cost, what do turbo's four steps gain.

    python benchmarks/gpu.py --comfyui PATH [--part kernels] [--part step] [--part turbo]

One command, made for a bare machine with torch and Triton: ComfyUI and this package by path, no network, no model files,
70 GB of RAM. ComfyUI's two wheels may lie in any folder: pip install --no-deps --target FOLDER comfy-kitchen
comfy-aimdo, then PYTHONPATH=FOLDER. A row is printed when it is known and a part that fails is printed too, so that a run
that is cut off is worth something. Without a card everything runs at tiny sizes, the kernels in Triton's interpreter: that
shows that the script works, and its numbers mean nothing.
"""

import argparse
import contextlib
import gc
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from types import ModuleType

import sampling

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="the folder of ComfyUI")
parser.add_argument(
    "--part", choices=("kernels", "step", "turbo"), action="append", help="only this; may be given often"
)
arguments = parser.parse_args()
began = time.perf_counter()
if importlib.util.find_spec("torchsde") is None:
    sys.modules["torchsde"] = ModuleType("torchsde")  # ComfyUI's stochastic samplers import it, and none runs here
sampling.load_package(arguments.comfyui)  # before torch: what dynamic memory is made of must be there first

import quantised_step  # noqa: E402
import torch  # noqa: E402

import turbo  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SIZE = (832, 480, 81) if GPU else (64, 64, 5)
KEYS = "14b" if GPU else "tiny"
# Kind of weights → the catalogue's variant whose plan stands beside it.
KINDS = {"bf16": "fp16", "int8_convrot": "int8_convrot", "fp8": "fp8", "Q4_K": "Q4_K_M", "Q8_0": "Q8_0"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def main() -> None:
    say(
        torch.cuda.get_device_name() if GPU else "CPU, tiny sizes: the numbers mean nothing", "torch", torch.__version__
    )
    for part in arguments.part or PARTS:
        say(f"--- {part}")
        try:
            with torch.inference_mode():
                PARTS[part]()
        except Exception:  # the next part can still tell something
            traceback.print_exc()
        free()
    say("end")


def say(*words: object) -> None:
    """A line, with the seconds since the start."""
    print(f"[{time.perf_counter() - began:4.0f} s]", *words, flush=True)


def free() -> None:
    """Gives all models back, and what ComfyUI keeps for streaming them until a node ends."""
    import comfy.model_management

    comfy.model_management.reset_cast_buffers()
    comfy.model_management.unload_all_models()
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def kernels() -> None:
    """Every type of GGUF, to the bit, and the kernels of sparse attention, 8-bit layers and norms, against torch."""
    from steadydancer.quant import blocks, triton_kernels

    for number, kind in blocks.BLOCKS.items():
        few, many = (packed(kind, weights) for weights in (1 << 14, (5120 * 13824 if GPU else 1 << 14)))
        row = []
        for dtype in DTYPES if GPU else DTYPES[:2]:  # the interpreter does not round bfloat16
            exact = blocks.dequantise(few.cpu(), kind, torch.empty(few.shape[0] * kind.weights, dtype=dtype))
            out = torch.full((exact.numel(),), 7.0, dtype=dtype, device=DEVICE)
            same = [torch.equal(blocks.dequantise(few, kind, out).cpu(), exact)]
            if number in triton_kernels.KERNELS:
                out.fill_(7.0)
                same.append(torch.equal(triton_kernels.dequantise(few, number, out).cpu(), exact))
            row.append(f"{str(dtype).removeprefix('torch.')} {'same' if all(same) else 'DIFFERENT'}")
        rates = [f"torch {rate(lambda out: blocks.dequantise(many, kind, out), many, kind):5.0f} GB/s"]  # noqa: B023
        if number in triton_kernels.KERNELS:
            unpack = lambda out: triton_kernels.dequantise(many, number, out)  # noqa: B023, E731
            rates.append(f"Triton {rate(unpack, many, kind):5.0f} GB/s")
        say(f"{kind.name:7}", ", ".join(row), "as torch on the CPU;", ", ".join(rates))
    for dtype in (torch.bfloat16, torch.float16) if GPU else (torch.float16,):
        say(f"{dtype}, {'the card' if GPU else 'interpreted'}:")
        turbo.check(torch, dtype)
    kitchens_layer()


def packed(kind, weights: int) -> torch.Tensor:
    """Random blocks of a type, with finite scales."""
    data = torch.randint(0, 256, (weights // kind.weights, kind.bytes), dtype=torch.uint8, device=DEVICE)
    data.view(torch.float16).nan_to_num_(0, 1, -1).clamp_(-1, 1)
    return data


def rate(unpack, data: torch.Tensor, kind) -> float:
    """GB/s read and written."""
    out = torch.empty(data.shape[0] * kind.weights, dtype=torch.float16, device=DEVICE)
    seconds = turbo.best(sampling.timed, torch, lambda: unpack(out), 2)
    return (data.nbytes + out.nbytes) / seconds / 1e9


def kitchens_layer() -> None:
    """comfy-kitchen's rotated int8 layer against its own weights as numbers; its inputs are in 8 bits too."""
    from comfy.quant_ops import QuantizedTensor

    rows, n, k = (4096, 5120, 5120) if GPU else (64, 256, 256)
    dtype = torch.float16 if GPU else torch.float32
    x, weight = (torch.randn(size, k, dtype=dtype, device=DEVICE) for size in (rows, n))
    layer = QuantizedTensor.from_float(
        weight, "TensorWiseINT8Layout", is_weight=True, per_channel=True, convrot=True, convrot_groupsize=256
    )
    plain = layer.dequantize()
    multiply = torch.nn.functional.linear
    error = relative(multiply(x, layer), multiply(x, plain))
    seconds = [turbo.best(sampling.timed, torch, lambda w=w: multiply(x, w)) for w in (weight, layer)]
    say(f"int8_convrot layer: error {error:.1e} (limit 2e-2), {seconds[0] / seconds[1]:.2f}× as fast as 16 bits")


def step() -> None:
    """One evaluation of SteadyDancer at 832×480×81 for each kind of weights: time, peak, and what the planner says."""
    from steadydancer.dancer.model import register

    register()
    dynamic = GPU and sampling.start_dynamic_memory()
    say(f"SteadyDancer {KEYS}, {'×'.join(map(str, SIZE))}, random weights, one evaluation of one branch")
    say(
        f"{'weights':<14}{'computes in':<13}{'placed':<16}{'seconds':>8}{'planned':>9}{'peak GB':>9}{'planned':>9}"
        f"{'launched in':>13}  difference"
    )
    usual = "dynamic" if dynamic else "static"
    for kind in KINDS:
        tensors, whole = weights_of(kind), None
        # Between ways nothing may differ: a difference is a race of streams. One kind is enough to show it.
        for placed, gb in (("static", 0), (usual, 0), (usual, 12)) if kind == "Q4_K" else ((usual, 0),):
            with only(gb) as held:
                model = loaded(dict(tensors), kind, placed == "dynamic")
                dtype = str(model.model.get_dtype_inference()).removeprefix("torch.")  # not always the file's
                out, seconds, launched, peak = evaluated(model)
                planned_seconds, planned_bytes = planned(KINDS[kind])
                difference = "" if whole is None else f"{relative(out, whole):.1e}"
                finite = "" if out.isfinite().all() else "  NOT FINITE"
                say(
                    f"{kind:<14}{dtype:<13}{placed + (f', {gb} GB' if gb else ''):<16}{seconds:>8.2f}{planned_seconds:>9.2f}"
                    f"{(peak - held) / 1e9:>9.2f}{planned_bytes / 1e9:>9.2f}{launched:>13.2f}  {difference}{finite}"
                )
                whole = out if whole is None else whole
                del model
                free()
        del tensors


@contextlib.contextmanager
def only(gb: int) -> Iterator[int]:
    """As if the card had only so much memory free, where that is not 0; gives the bytes that are held for it."""
    held = []
    if gb and GPU:
        spare = torch.cuda.mem_get_info()[0] - gb * 10**9
        while spare > 1 << 30:
            held.append(torch.empty(min(spare, 8 << 30), dtype=torch.uint8, device=DEVICE))
            spare -= held[-1].nbytes
    yield sum(piece.nbytes for piece in held)
    held.clear()
    free()


def weights_of(kind: str) -> dict[str, torch.Tensor]:
    """Random weights in the published layout, in the form of a file of that kind."""
    if kind not in ("fp8", "int8_convrot"):
        return quantised_step.state_dict(KEYS, kind)
    tensors = quantised_step.state_dict(KEYS, "bf16")
    for key in [
        key for key, t in tensors.items() if key.startswith("blocks.") and key.endswith("weight") and t.ndim == 2
    ]:
        layer = key.removesuffix("weight")
        if kind == "fp8":  # as published: its layers multiply in 16 bits
            tensors[key] = tensors[key].to(DEVICE).to(torch.float8_e4m3fn).cpu()
            tensors[f"{layer}scale_weight"] = torch.ones(1)
            tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        else:
            tensors |= rotated(layer, tensors[key].to(DEVICE))
    return tensors


def rotated(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """A layer as `cli.py convert` writes it."""
    from comfy_kitchen.tensor import TensorWiseINT8Layout
    from steadydancer.convert.numbers import description
    from steadydancer.convert.recipe import int8
    from steadydancer.convert.source import Tensor

    made = int8(f"{layer}weight", Tensor(None, "F32", tuple(weight.shape), 0))
    numbers, params = TensorWiseINT8Layout.quantize(
        weight.float(), is_weight=True, per_channel=True, convrot=True, convrot_groupsize=made.group
    )
    words = description(made.parts[f"{layer}comfy_quant"])
    return {
        f"{layer}weight": numbers.cpu(), f"{layer}weight_scale": params.scale.cpu(), f"{layer}comfy_quant": words,
    }  # fmt: skip


def loaded(tensors: dict[str, torch.Tensor], kind: str, dynamic: bool):
    """The MODEL, on the card as ComfyUI puts it there: `dynamic` is what people have, static its older way."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    from steadydancer.quant.ops import packed_operations
    from steadydancer.quant.patches import with_packed_patches

    comfy.memory_management.aimdo_enabled = dynamic
    patcher = comfy.model_patcher.ModelPatcherDynamic if dynamic else comfy.model_patcher.ModelPatcher
    comfy.model_patcher.CoreModelPatcher = patcher
    options = {"custom_operations": packed_operations()} if kind.startswith("Q") else {}
    model = comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options, disable_dynamic=not dynamic)
    model = with_packed_patches(model) if kind.startswith("Q") else model
    comfy.model_management.load_models_gpu([model])
    return model


def evaluated(model) -> tuple[torch.Tensor, float, float, int]:
    """Its result, best seconds, the seconds that Python took to hand it over, and peak bytes with the weights."""
    dtype, random = model.model.get_dtype_inference(), torch.Generator(DEVICE).manual_seed(1)
    t, h, w = (SIZE[2] - 1) // 4 + 1, SIZE[1] // 8, SIZE[0] // 8

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, device=DEVICE, generator=random).to(dtype)

    inputs = {"x": noise(36, t, h, w), "context": noise(512, 4096), "pose_latents": noise(16, t, h, w)}
    inputs |= {"clip_fea": noise(257, 1280), "clip_fea_pose": noise(257, 1280)}
    network, timestep = model.model.diffusion_model, torch.full((1,), 731.0, device=DEVICE)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    out = network(timestep=timestep, **inputs).float()
    seconds = min(sampling.timed(torch, lambda: network(timestep=timestep, **inputs)) for _ in range(2))
    peak = torch.cuda.max_memory_allocated() if GPU else sampling.process_peak()
    peak += model.loaded_size() if model.is_dynamic() else 0  # of which torch's allocator does not know
    start = time.perf_counter()
    network(timestep=timestep, **inputs)
    launched = time.perf_counter() - start
    return out, seconds, launched, peak


def planned(variant: str) -> tuple[float, int]:
    """The planner's seconds of one evaluation on this card, and bytes with all blocks on it, without its slack."""
    from steadydancer.machine.card import computer
    from steadydancer.planning.estimate import Settings, sample_phase
    from steadydancer.planning.job import job_for
    from steadydancer.planning.model_sizes import model_of
    from vram import present_card

    model, card = model_of(f"steadydancer/{variant}", []), present_card() if GPU else computer()
    job = job_for(f"steadydancer/{variant}", *SIZE, branches=1, steps=1)
    phase = sample_phase(job, card, model, Settings(False, model.blocks, 0, "gpu"), {})
    return phase.seconds, phase.peak - phase.slack


def turbo_steps() -> None:
    """Four steps of TurboWan 14B text to video: dense, with sparse attention, and with 8-bit layers on top."""
    from steadydancer.loaders.turbo import build
    from steadydancer.turbo.sampler import sample
    from steadydancer.turbo.schedule import SIGMA_MAX, rcm_times
    from steadydancer.turbo.sla import with_sla

    size = (21, 60, 104) if GPU else (2, 16, 16)
    layout = sampling.LAYOUT_14B if GPU else sampling.LAYOUT_TINY
    tensors = turbo.random_tensors(torch, layout["dim"], layout["ffn_dim"], layout["num_layers"])
    latent = torch.zeros(1, 16, *size)
    text = [[torch.randn(1, 512, 4096), {}]]
    dense = dense_seconds = None
    say(
        f"TurboWan of width {layout['dim']}, latent {'×'.join(map(str, size))}, random weights, with ComfyUI's sampling"
    )
    say(f"{'layers':<8}{'attention':<11}{'first step':>11}{'4 steps s':>11}{'':>8}{'peak GB':>9}  against dense")
    for precision, sparse in (("bf16", False), ("bf16", True), ("int8", True)):
        model, projections = build(dict(tensors), "TurboWan2.1-T2V.safetensors", precision, disable_dynamic=True)
        model = with_sla(model, projections) if sparse else model

        def run(steps: int, model=model) -> torch.Tensor:
            random = torch.Generator().manual_seed(3)
            return sample(model, None, text, latent, rcm_times(steps, SIGMA_MAX["t2v"]), random, quiet=True)

        first = sampling.timed(torch, partial(run, 1))
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        out = run(4)  # on the CPU when it returns
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if GPU else sampling.process_peak()
        dense, dense_seconds = (out, seconds) if dense is None else (dense, dense_seconds)
        say(
            f"{precision:<8}{'sparse' if sparse else 'dense':<11}{first:>11.2f}{seconds:>11.2f}{dense_seconds / seconds:>7.2f}×"
            f"{peak / 1e9:>9.2f}  {relative(out, dense):.1e}{'' if out.isfinite().all() else '  NOT FINITE'}"
        )
        del model, run
        free()


PARTS = {"kernels": kernels, "step": step, "turbo": turbo_steps}

if __name__ == "__main__":
    main()
