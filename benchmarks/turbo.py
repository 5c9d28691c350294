#!/usr/bin/env python3
# ruff: noqa: B023 (every function is called before its loop goes on)
"""What TurboDiffusion's parts gain: sparse-linear attention against dense, 8-bit layers against 16-bit, whole 14B steps.

    python dev.py run -- python benchmarks/turbo.py                       the CPU's table, small sizes
    python benchmarks/turbo.py --comfyui PATH [--peer PATH] [--part …]    a GPU's, in one command of less than 8 minutes

On a GPU it needs only ComfyUI's own Python with Triton. --peer is a checkout of thu-ml/SLA, whose Triton kernel is timed beside
ours. Goals on a GPU at top-k 0.1: attention 3× SDPA at 32,760 tokens and 6× at 75,600; 1.2× the peer; 8-bit layers 1.5× bf16.
"""

import argparse
import gc
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("attention", "layers", "steps", "steadydancer")
LENGTHS = (32_760, 75_600)
SHAPES = {"attention 5120×5120": (5120, 5120), "ffn 13824×5120": (13824, 5120), "ffn 5120×13824": (5120, 13824)}
STEPS = {"480p×81": (21, 60, 104), "720p×81": (21, 90, 160)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="the folder of ComfyUI")
    parser.add_argument("--peer", type=Path, help="a checkout of thu-ml/SLA")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be given often")
    arguments = parser.parse_args()
    sampling = neighbour("sampling")
    sampling.load_package(arguments.comfyui)

    import torch

    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}")
    work = {
        "attention": lambda: attention(torch, sampling.timed, gpu, arguments.peer),
        "layers": lambda: layers(torch, sampling.timed, gpu),
        "steps": lambda: steps(torch, sampling.timed),
        "steadydancer": lambda: steadydancer(torch, sampling),
    }
    for part in arguments.part or PARTS:
        if gpu or part in ("attention", "layers"):
            print()
            with torch.inference_mode():
                work[part]()
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()


def neighbour(name: str):
    """Another script of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def best(timed, torch, work, runs: int = 3) -> float:
    work()
    return min(timed(torch, work) for _ in range(runs))


def attention(torch, timed, gpu: bool, peer: Path | None) -> None:
    from steadydancer.turbo.sla import sparse_attention

    heads, lengths = (40, LENGTHS) if gpu else (2, (4096, 8190))
    kind, device = (torch.bfloat16, "cuda") if gpu else (torch.float32, "cpu")
    print(f"self-attention, {heads} heads of 128, {kind}")
    print(f"{'tokens':>8}{'top-k':>7}{'SDPA ms':>10}{'ours ms':>10}{'peer ms':>10}{'of SDPA':>9}{'of peer':>9}")
    for length in lengths:
        q, k, v = (torch.randn(1, length, heads, 128, dtype=kind, device=device) for _ in range(3))
        projection = tuple(torch.randn(shape, dtype=kind, device=device) * 0.01 for shape in ((128, 128), (128,)))
        dense = [x.transpose(1, 2) for x in (q, k, v)]
        sdpa = best(timed, torch, lambda: torch.nn.functional.scaled_dot_product_attention(*dense))
        for topk in (0.1, 0.15):
            ours = best(timed, torch, lambda topk=topk: sparse_attention(q, k, v, projection, topk))
            theirs = best(timed, torch, peer_attention(torch, peer, topk, dense)) if peer and gpu else float("nan")
            print(
                f"{length:>8}{topk:>7}{sdpa * 1e3:>10.1f}{ours * 1e3:>10.1f}{theirs * 1e3:>10.1f}"
                f"{sdpa / ours:>8.2f}×{theirs / ours:>8.2f}×",
                flush=True,
            )


def peer_attention(torch, peer: Path, topk: float, inputs: list):
    """The published module, as its README calls it."""
    sys.path.insert(0, str(peer))
    from sparse_linear_attention import SparseLinearAttention

    module = SparseLinearAttention(head_dim=128, topk=topk, feature_map="softmax", BLKQ=128, BLKK=64).cuda().bfloat16()
    contiguous = [x.contiguous() for x in inputs]
    return lambda: module(*contiguous)


def layers(torch, timed, gpu: bool) -> None:
    from steadydancer.quant import int8

    tokens = 32_760 if gpu else 512
    kind, device = (torch.bfloat16, "cuda") if gpu else (torch.float32, "cpu")
    multiply = int8.linear
    if gpu:
        from steadydancer.quant import triton_int8

        multiply = triton_int8.linear
    print(
        f"one layer, {tokens} tokens: 8-bit ({'Triton' if gpu else 'exact emulation, for tests only'}) against {kind}"
    )
    print(f"{'layer':<22}{'16-bit ms' if gpu else 'plain ms':>10}{'8-bit ms':>10}{'':>9}")
    for name, (n, k) in SHAPES.items():
        x, weight = (
            torch.randn(tokens, k, dtype=kind, device=device),
            torch.randn(n, k, dtype=kind, device=device) * 0.02,
        )
        codes, scale = int8.quantise(weight)
        plain = best(timed, torch, lambda: torch.nn.functional.linear(x, weight))
        packed = best(timed, torch, lambda: multiply(x, codes, scale))
        print(f"{name:<22}{plain * 1e3:>10.2f}{packed * 1e3:>10.2f}{plain / packed:>8.2f}×", flush=True)


def steps(torch, timed) -> None:
    """TurboWan T2V 14B with random weights in the published layout, through the loader."""
    import comfy.model_management as mm
    from steadydancer.loaders.turbo import load_turbo
    from steadydancer.turbo.model import as_turbo
    from steadydancer.turbo.sla import with_sla

    path = random_file(torch)
    print("TurboWan 14B, random weights, one step")
    print(f"{'precision':<11}{'attention':<11}{'size':<10}{'s/step':>8}{'peak GB':>9}")
    try:
        for precision in ("bf16", "int8"):
            ((model, projections),) = load_turbo([path], precision, lambda done, total: None, lambda: False)
            for kind in ("dense", "sla"):
                chosen = as_turbo(model)
                chosen = with_sla(chosen, projections) if kind == "sla" else chosen
                mm.load_models_gpu([chosen])
                options = chosen.model_options["transformer_options"]
                for name, size in STEPS.items():
                    if kind == "dense" and precision == "int8":
                        continue
                    inputs = {
                        "x": torch.randn(1, 16, *size, device="cuda", dtype=torch.bfloat16),
                        "timestep": torch.tensor([988.0], device="cuda"),
                        "context": torch.randn(1, 512, 4096, device="cuda", dtype=torch.bfloat16),
                    }
                    torch.cuda.reset_peak_memory_stats()
                    network = chosen.model.diffusion_model
                    seconds = best(timed, torch, lambda: network(**inputs, transformer_options={**options}), 2)
                    peak = torch.cuda.max_memory_allocated() / 1e9
                    print(f"{precision:<11}{kind:<11}{name:<10}{seconds:>8.2f}{peak:>9.1f}", flush=True)
            mm.unload_all_models()
            del model, chosen
            gc.collect()
    finally:
        path.unlink()


def random_file(torch) -> Path:
    """A 28 GB safetensors file with TurboWan 14B's layout, in the temporary folder."""
    import tempfile

    from safetensors.torch import save_file

    dim, ffn, blocks = 5120, 13824, 40
    shapes = {"patch_embedding.weight": (dim, 64), "patch_embedding.bias": (dim,), "head.head.weight": (64, dim)}
    shapes |= {"head.head.bias": (64,), "head.modulation": (1, 2, dim)}
    for name, (n, k) in {
        "text_embedding.0": (dim, 4096),
        "text_embedding.2": (dim, dim),
        "time_embedding.0": (dim, 256),
        "time_embedding.2": (dim, dim),
        "time_projection.1": (6 * dim, dim),
    }.items():
        shapes |= {f"{name}.weight": (n, k), f"{name}.bias": (n,)}
    for i in range(blocks):
        block = f"blocks.{i}"
        for kind in ("self_attn", "cross_attn"):
            for part in "qkvo":
                shapes |= {f"{block}.{kind}.{part}.weight": (dim, dim), f"{block}.{kind}.{part}.bias": (dim,)}
            shapes |= {f"{block}.{kind}.norm_{part}.weight": (dim,) for part in "qk"}
        shapes |= {f"{block}.norm3.{part}": (dim,) for part in ("weight", "bias")}
        shapes |= {f"{block}.ffn.0.weight": (ffn, dim), f"{block}.ffn.0.bias": (ffn,)}
        shapes |= {f"{block}.ffn.2.weight": (dim, ffn), f"{block}.ffn.2.bias": (dim,)}
        shapes |= {f"{block}.modulation": (1, 6, dim)}
        linear = f"{block}.self_attn.attn_op.local_attn.proj_l"
        shapes |= {f"{linear}.weight": (128, 128), f"{linear}.bias": (128,)}
    tensors = {}
    for key, shape in shapes.items():
        norm = "norm" in key
        tensors[key] = torch.ones(shape) if norm else torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
    path = Path(tempfile.mkdtemp()) / "TurboWan2.1-T2V-14B-480P.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def steadydancer(torch, sampling) -> None:
    """Four steps of SteadyDancer at 1024×576×81, one of them with pose guidance: five evaluations, fp8."""
    model = sampling.build(torch, sampling.LAYOUT_14B, "fp8 scaled", "resident")
    seconds, peak = sampling.measure(torch, model, sampling.SIZES["1024×576×81"])
    print(f"SteadyDancer fp8 1024×576×81, 4 steps (5 evaluations): {5 * seconds:.1f} s, peak {peak:.1f} GB")


if __name__ == "__main__":
    main()
