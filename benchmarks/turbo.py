#!/usr/bin/env python3
# ruff: noqa: B023 (every function is called before its loop goes on)
"""What TurboDiffusion's parts gain: sparse-linear attention against dense, 8-bit layers against 16-bit, whole 14B steps.

    python dev.py run -- python benchmarks/turbo.py                       the CPU's table, small sizes, tiny models
    python benchmarks/turbo.py --comfyui PATH [--peer PATH] [--part …]    a GPU's, in one command of less than 8 minutes

On a GPU it needs only ComfyUI's own Python with Triton, 50 GB of RAM and no disk. It first checks the kernels against torch;
a part that fails is printed, and the next one runs.
--peer is a checkout of thu-ml/SLA, whose Triton kernel is timed beside ours and compared with it. Goals on a GPU at top-k 0.1:
attention 3× SDPA at 32,760 tokens and 6× at 75,600; 1.2× the peer; 8-bit layers 1.5× bf16.
"""

import argparse
import gc
import importlib.util
import os
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("check", "attention", "layers", "steps", "steadydancer")
LENGTHS = (32_760, 75_600)
SHAPES = {"attention 5120×5120": (5120, 5120), "ffn 13824×5120": (13824, 5120), "ffn 5120×13824": (5120, 13824)}
STEPS = {"480p×81": (21, 60, 104), "720p×81": (21, 90, 160)}
TINY_STEPS = {"128×192×17": (5, 16, 24)}


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
    peer = peer_module(arguments.peer) if arguments.peer and gpu else None
    work = {
        "check": lambda: check(torch),
        "attention": lambda: attention(torch, sampling.timed, gpu, peer),
        "layers": lambda: layers(torch, sampling.timed, gpu),
        "steps": lambda: steps(torch, sampling, gpu),
        "steadydancer": lambda: steadydancer(torch, sampling, gpu),
    }
    for part in arguments.part or PARTS:
        print()
        with torch.inference_mode():
            try:
                work[part]()
            except Exception:  # what comes after it can still tell something
                traceback.print_exc()
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


def check(torch, kind=None) -> None:
    """What the kernels compute in `kind`, bfloat16 where nothing is said, against what torch does; on a CPU in Triton's
    interpreter, which has float16 only. A kernel that differs is named, and the others are still checked."""
    from steadydancer.quant import int8, triton_int8
    from steadydancer.turbo import attention, triton_norms, triton_sla

    gpu = torch.cuda.is_available()
    kind = kind or (torch.bfloat16 if gpu else torch.float16)
    length, rows, width = (1000, 1000, 5120) if gpu else (200, 130, 320)

    def random(*shape, kind=kind):
        return torch.randn(shape, dtype=kind, device="cuda" if gpu else "cpu")

    def agree(name, ours, exact, limit):
        error = ((ours.float() - exact.float()).norm() / exact.float().norm()).item()
        verdict = "" if error <= limit else "  DIFFERS: its times below mean nothing"
        print(f"{name:<40}{error:>10.1e}{limit:>10.0e}{verdict}", flush=True)

    print(f"{'kernel against torch':<40}{'error':>10}{'limit':>10}")
    q, k, v = (random(2, length, 3, 128) for _ in range(3))
    projection = random(128, 128), random(128)
    exact = attention.sla(*(x.float() for x in (q, k, v)), tuple(part.float() for part in projection), 1.0)
    agree("attention, all blocks", triton_sla.sla(q, k, v, projection, 1.0), exact, 1e-2)
    # Of two blocks that are nearly alike, the order of a sum may decide which is taken: hence the limit.
    exact = attention.sla(q, k, v, None, 0.3)
    agree("attention, chosen blocks", triton_sla.sla(q, k, v, None, 0.3), exact, 1e-1)
    x, weight, bias = random(rows, 1024), random(512, 1024), random(512)
    codes, scale = int8.quantise(weight)
    found, exact = triton_int8.quantise(x), int8.quantise(x)
    agree("quantiser, numbers", found[0], exact[0], 0.0)
    agree("quantiser, scales", found[1], exact[1], 1e-7)
    agree("8-bit layer", triton_int8.linear(x, codes, scale, bias), int8.linear(x, codes, scale, bias), 5e-3)
    x = random(rows, width)
    weight, bias = random(width, kind=torch.float32), random(width, kind=torch.float32)
    exact = torch.nn.functional.layer_norm(x.float(), (width,), weight, bias, 1e-6)
    agree("layer norm", triton_norms.norm(x, weight, bias, 1e-6), exact, 5e-3)


def attention(torch, timed, gpu: bool, peer) -> None:
    from comfy.ldm.modules.attention import attention_pytorch
    from steadydancer.turbo.sla import sparse_attention

    heads, lengths = (40, LENGTHS) if gpu else (2, (4096, 8190))
    kind, device = (torch.bfloat16, "cuda") if gpu else (torch.float32, "cpu")
    print(f"self-attention, {heads} heads of 128, {kind}")
    print(
        f"{'tokens':>8}{'top-k':>7}{'SDPA ms':>10}{'ours ms':>10}{'peer ms':>10}{'of SDPA':>9}{'of peer':>9}{'to peer':>9}"
    )
    for length in lengths:
        q, k, v = (torch.randn(1, length, heads, 128, dtype=kind, device=device) for _ in range(3))
        projection = tuple(torch.randn(shape, dtype=kind, device=device) * 0.01 for shape in ((128, 128), (128,)))
        dense = [x.transpose(1, 2) for x in (q, k, v)]
        # ComfyUI's own order of backends, which torch's is not on every card
        sdpa = best(timed, torch, lambda: attention_pytorch(*dense, heads, skip_reshape=True, skip_output_reshape=True))
        for topk in (0.1, 0.15):
            ours = best(timed, torch, lambda topk=topk: sparse_attention(q, k, v, projection, topk))
            theirs = difference = float("nan")
            if peer:
                module = peer(head_dim=128, topk=topk, feature_map="softmax", BLKQ=128, BLKK=64).cuda()
                module.proj_l.weight.copy_(projection[0])
                module.proj_l.bias.copy_(projection[1])
                inputs = [x.contiguous() for x in dense]  # theirs is made for [B, H, L, D]; the copies are not timed
                theirs = best(timed, torch, lambda: module(*inputs))
                mine, exact = sparse_attention(q, k, v, projection, topk), module(*inputs).transpose(1, 2)
                difference = ((mine - exact).norm(dtype=torch.float32) / exact.norm(dtype=torch.float32)).item()
            print(
                f"{length:>8}{topk:>7}{sdpa * 1e3:>10.1f}{ours * 1e3:>10.1f}{theirs * 1e3:>10.1f}"
                f"{sdpa / ours:>8.2f}×{theirs / ours:>8.2f}×{difference:>9.1e}",
                flush=True,
            )


def peer_module(peer: Path):
    """The published module, as thu-ml/SLA's README calls it: inputs [B, H, L, D]."""
    if not (peer / "sparse_linear_attention").is_dir():
        sys.exit(f"There is no sparse_linear_attention in {peer}. --peer wants a checkout of github.com/thu-ml/SLA.")
    sys.path.append(str(peer))
    from sparse_linear_attention import SparseLinearAttention

    return SparseLinearAttention


def layers(torch, timed, gpu: bool) -> None:
    from steadydancer.quant import int8
    from steadydancer.turbo.ops import by_rows, turbo_operations

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

    rows, width = (75_600, 5120) if gpu else (2048, 1024)
    x, weight = torch.randn(rows, width, dtype=torch.bfloat16, device=device), torch.ones(width, device=device)
    layer = turbo_operations().RMSNorm(width, eps=1e-6, device=device)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    plain = best(
        timed, torch, lambda: by_rows(lambda part: torch.nn.functional.rms_norm(part, (width,), weight, 1e-6), x)
    )
    ours = best(timed, torch, lambda: layer(x))
    print(f"float32 norm of {rows}×{width}: torch {plain * 1e3:.2f} ms, ours {ours * 1e3:.2f} ms, {plain / ours:.2f}×")


def steps(torch, sampling, gpu: bool) -> None:
    """TurboWan T2V with random weights in the published layout, through the loader."""
    import comfy.model_management as mm
    from steadydancer.loaders.turbo import build
    from steadydancer.turbo.sla import with_sla

    layout, sizes = (sampling.LAYOUT_14B, STEPS) if gpu else (sampling.LAYOUT_TINY, TINY_STEPS)
    tensors = random_tensors(torch, layout["dim"], layout["ffn_dim"], layout["num_layers"])
    print(f"TurboWan of width {layout['dim']}, random weights, one step")
    print(f"{'precision':<11}{'attention':<11}{'size':<12}{'s/step':>8}{'peak GB':>9}")
    for precision, kinds in (("bf16", ("dense", "sla")), ("int8", ("sla",))):
        model, projections = build(dict(tensors), "TurboWan2.1-T2V.safetensors", precision)
        for kind in kinds:
            chosen = with_sla(model, projections) if kind == "sla" else model
            mm.load_models_gpu([chosen])
            network, options = chosen.model.diffusion_model, chosen.model_options["transformer_options"]
            device = chosen.load_device
            for name, size in sizes.items():
                inputs = {
                    "x": torch.randn(1, 16, *size, device=device, dtype=torch.bfloat16),
                    "timestep": torch.tensor([988.0], device=device),
                    "context": torch.randn(1, 512, 4096, device=device, dtype=torch.bfloat16),
                }
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                run = lambda: network(**inputs, transformer_options=dict(options))  # noqa: E731
                seconds = best(sampling.timed, torch, run, 1)
                peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else float("nan")
                print(f"{precision:<11}{kind:<11}{name:<12}{seconds:>8.2f}{peak:>9.1f}", flush=True)
        mm.unload_all_models()
        del model, chosen
        gc.collect()


def random_tensors(torch, dim: int, ffn: int, blocks: int) -> dict:
    """A TurboWan text-to-video model as published, in RAM; its numbers are drawn on the GPU where there is one."""
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
    maker = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        key: torch.ones(shape)
        if "norm" in key
        else torch.empty(shape, dtype=torch.bfloat16, device=maker).normal_(std=0.02).cpu()
        for key, shape in shapes.items()
    }


def steadydancer(torch, sampling, gpu: bool) -> None:
    """Four steps of SteadyDancer, one of them with pose guidance: five evaluations. On a GPU fp8 at 1024×576×81."""
    layout, kind = (sampling.LAYOUT_14B, "fp8 scaled") if gpu else (sampling.LAYOUT_TINY, "fp32")
    name, size = list((sampling.SIZES if gpu else sampling.TINY_SIZES).items())[1]
    model = sampling.build(torch, layout, kind, "resident")
    seconds, peak = sampling.measure(torch, model, size, 1 + gpu)
    print(f"SteadyDancer {kind} {name}, 4 steps (5 evaluations): {5 * seconds:.1f} s, peak {peak:.1f} GB")


if __name__ == "__main__":
    main()
