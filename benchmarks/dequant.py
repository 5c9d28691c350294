"""How fast GGUF weights become numbers, beside the other ways that there are. Prints a table.

    python benchmarks/dequant.py [--weights 26214400] [--dtype float16] [--types Q4_K …] [--threads N] [--peer PATH] [--device cuda]

The default size is the commonest layer of the 14B network, 5120×5120; on a GPU take the largest, 70778880, whose kernels
take longer than starting them. Columns are million weights a second; the best of nine runs, in which the ways take turns, as
the layers of a network do: a way that runs alone gets its own memory back from the last run, still warm, and is up to four
times as fast. `diffusers` and `gguf` are asked where they are installed, and a ComfyUI-GGUF checkout where --peer names it.
Then: GB/s of `bytes of a weight + 2`, the part of what a plain copy reaches, and the bytes of temporary memory for each
weight, of our fastest way and the largest of the others', the result not counted.
"""

import argparse
import importlib.util
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]


def load_package() -> None:
    """This package under its own name; nothing of ComfyUI is needed."""
    spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
    cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    cli.load_package()


def rates(ways: dict, count: int, device: str) -> dict[str, float]:
    """Name → function() to name → million weights a second.

    On a GPU twenty calls are timed together: as in a network, the next one is started while one runs.
    """
    calls, wait = (1, lambda: None) if device == "cpu" else (20, torch.cuda.synchronize)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(9):
        for name, way in ways.items():
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                way()
            wait()
            best[name] = min(best[name], (time.perf_counter() - start) / calls)
    return {name: count / seconds / 1e6 for name, seconds in best.items()}


def temporary(work, count: int, device: str) -> float:
    """Bytes a weight that `work` holds at its peak beside what was there before."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / count
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    level = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak / count


def contestants(args) -> dict:
    """Name → function(blocks, kind name, ggml number, out) for every way that is installed."""
    load_package()
    from steadydancer.quant.blocks import BLOCKS, dequantise

    ways = {"ours": lambda b, name, number, out: dequantise(b, BLOCKS[number], out)}
    if args.device != "cpu":
        from steadydancer.quant import triton_kernels

        ways["ours, Triton"] = lambda b, name, number, out: (
            triton_kernels.dequantise(b, number, out) if number in triton_kernels.KERNELS else None
        )
    if importlib.util.find_spec("diffusers"):
        from diffusers.quantizers.gguf import utils

        def diffusers(b, name, number, out):
            function = getattr(utils, f"dequantize_blocks_{name}", None)
            return function and function(b, BLOCKS[number].weights, BLOCKS[number].bytes, dtype=out.dtype)

        ways["diffusers"] = diffusers
    if importlib.util.find_spec("gguf") and args.device == "cpu":
        import gguf

        def gguf_py(b, name, number, out):
            numbers = gguf.quants.dequantize(b.numpy(), gguf.GGMLQuantizationType(number))
            return out.copy_(torch.from_numpy(numbers).view_as(out))

        ways["gguf-py"] = gguf_py
    if args.peer:
        spec = importlib.util.spec_from_file_location("peer_dequant", Path(args.peer) / "dequant.py")
        peer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(peer)
        functions = {int(kind): function for kind, function in peer.dequantize_functions.items()}
        ways["ComfyUI-GGUF"] = lambda b, name, number, out: (
            functions[number](b, BLOCKS[number].weights, BLOCKS[number].bytes, out.dtype)
            if number in functions
            else None
        )
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=5120 * 5120)
    parser.add_argument("--types", nargs="+", help="only these, such as Q4_K")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", help="a ComfyUI-GGUF checkout")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ways = contestants(args)
    from steadydancer.quant.blocks import BLOCKS

    dtype = getattr(torch, args.dtype)
    source = torch.zeros(args.weights, dtype=dtype, device=args.device)
    target = torch.empty_like(source)
    copy = rates({"copy": lambda: target.copy_(source)}, args.weights, args.device)["copy"] * 2 * dtype.itemsize / 1e3
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, to {args.dtype}; copy {copy:.1f} GB/s")
    print(
        f"{'type':<8}"
        + "".join(f"{name:>14}" for name in ways)
        + "   against the best other   GB/s   of copy  temp B  others"
    )
    for number, kind in BLOCKS.items():
        if args.types and kind.name not in args.types:
            continue
        count = args.weights // kind.weights
        blocks = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (count, kind.bytes), dtype=np.uint8))
        blocks.view(torch.float16)[:] = blocks.view(torch.float16).nan_to_num(0, 0, 0)
        blocks = blocks.to(args.device)
        out = torch.empty(count * kind.weights, dtype=dtype, device=args.device)
        calls = {name: partial(way, blocks, kind.name, number, out) for name, way in ways.items()}
        with torch.inference_mode():
            calls = {name: call for name, call in calls.items() if call() is not None}
            temps = {name: temporary(call, out.numel(), args.device) for name, call in calls.items()}
            speeds = rates(calls, out.numel(), args.device)
        fastest = max((name for name in speeds if name.startswith("ours")), key=speeds.get)
        ours, mine = speeds[fastest], temps[fastest]
        others = [speed for name, speed in speeds.items() if not name.startswith("ours")]
        against = f"{ours / max(others):.1f}×" if others else ""
        moved = ours * (kind.bytes / kind.weights + dtype.itemsize) / 1e3
        # what the others return is new memory, which is the result and no temporary of theirs
        theirs = [temp - dtype.itemsize for name, temp in temps.items() if not name.startswith(("ours", "gguf"))]
        row = "".join(f"{speeds[name]:>14.0f}" if name in speeds else f"{'':>14}" for name in ways)
        print(
            f"{kind.name:<8}{row}   {against:>22}  {moved:>5.1f}  {moved / copy:>7.0%}  {mine:>6.2f}  {max(theirs, default=0.0):>6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
