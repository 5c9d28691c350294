"""Conversion: what each precision costs in error, and what a conversion takes in memory and time.

python benchmarks/convert.py errors --comfyui PATH      one evaluation against float32, tiny weights in the published layout
python benchmarks/convert.py file [--blocks 2] [--to int8_convrot]    a file with the 14B model's layers, in a process of its own
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = 40  # of the 14B model
GGUF = ("Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0", "Q3_K", "Q2_K")


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def errors(args) -> None:
    sys.path.insert(0, args.comfyui)
    from comfy.cli_args import args as flags

    flags.cpu = True
    from steadydancer.convert.source import open_source
    from steadydancer.convert.write import convert
    from steadydancer.dancer.model import register
    from steadydancer.loaders.build import load_diffusion
    from support import tiny
    from support.golden import Golden
    from support.tiny_gguf import write_steadydancer_gguf

    register()
    golden = Golden()
    exact, inputs = golden.numbers["out.noise_pred"][None], golden.network_inputs()
    x = inputs.pop("x")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = tiny.write_steadydancer(folder / "dancer_fp32.safetensors", "fp32")
        files = {"fp32": source}
        for to in ("fp16", "bf16", "int8_convrot", "fp8_scaled"):
            path = folder / f"dancer_{to}.safetensors"
            files[to] = convert(open_source(source), path, to, lambda *_: None, lambda: False).path
        files["int8 by rows"] = tiny.write(
            folder / "rows.safetensors", by_rows(tiny.weights("steadydancer_tiny.keys.tsv"))
        )
        files["fp8, as published"] = tiny.write_steadydancer(folder / "fp8.safetensors", "fp8_scaled")
        files |= {kind: write_steadydancer_gguf(folder / f"{kind}.gguf", kind) for kind in GGUF}
        print(f"{'precision':<20} {'MB':>6} {'error against float32':>22}")
        for name, path in files.items():
            model = load_diffusion([path]).model.diffusion_model
            with torch.inference_mode():
                found = model(x, torch.full((1,), 731.0), **inputs).float()
            print(f"{name:<20} {path.stat().st_size / 1e6:>6.1f} {relative(found, exact):>22.4%}", flush=True)


def by_rows(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The blocks' layers as int8 with a scale a row and without rotation."""
    from comfy_kitchen.tensor import TensorWiseINT8Layout

    out = {}
    for key, tensor in tensors.items():
        if key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2:
            layer = key.removesuffix("weight")
            out[key], params = TensorWiseINT8Layout.quantize(tensor, per_channel=True)
            out[f"{layer}weight_scale"] = params.scale
            out[f"{layer}comfy_quant"] = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
        else:
            out[key] = tensor
    return out


def file(args) -> None:
    import psutil

    folder = Path(tempfile.mkdtemp(dir=args.folder))
    source, target = folder / "large_fp16.safetensors", folder / f"large_{args.to}.safetensors"
    block = write_large(source, args.blocks)
    print(f"{source.stat().st_size / 1e9:.2f} GB, {args.blocks} of {BLOCKS} blocks, to {args.to}")
    child = subprocess.Popen(
        [sys.executable, __file__, "child", str(source), str(target), args.to], stdout=subprocess.PIPE, text=True
    )
    watched, ready, peak = psutil.Process(child.pid), child.stdout.readline() and time.perf_counter(), 0
    before = watched.memory_info().rss
    while child.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.01)
    seconds = time.perf_counter() - ready
    print(f"{target.stat().st_size / 1e9:.2f} GB in {seconds:.1f} s with {torch.get_num_threads()} threads")
    print(
        f"memory: {peak / 1e6:.0f} MB at most, {before / 1e6:.0f} MB of them Python and PyTorch before the first tensor"
    )
    whole = source.stat().st_size + (BLOCKS - args.blocks) * block
    print(f"the whole model, {whole / 1e9:.1f} GB: about {seconds * whole / source.stat().st_size / 60:.0f} minutes")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def child(args) -> None:
    from steadydancer.convert.source import open_source
    from steadydancer.convert.write import convert

    print("ready", flush=True)
    convert(open_source(Path(args.source)), Path(args.target), args.to, lambda *_: None, lambda: False)


def write_large(path: Path, blocks: int) -> int:
    """Random float16 weights in the 14B model's layout with its first blocks only. Returns the bytes of one block."""
    from safetensors.torch import save_file
    from support import tiny

    tensors, block = {}, 0
    for key, shape in tiny.shapes("steadydancer_14b.keys.tsv").items():
        number = int(key.split(".")[1]) if key.startswith("blocks.") else 0
        if number < blocks:
            tensors[key] = (torch.randn(shape) * 0.02).half()
            block += tensors[key].nbytes if key.startswith("blocks.0.") else 0
    save_file(tensors, path)
    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("errors").add_argument("--comfyui", required=True)
    large = commands.add_parser("file")
    large.add_argument("--blocks", type=int, default=2, help="2 make a file of 2 GB")
    large.add_argument("--to", default="int8_convrot")
    large.add_argument("--folder", help="where the files are made (default: the system's temporary folder)")
    one = commands.add_parser("child")
    for name in ("source", "target", "to"):
        one.add_argument(name)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    sys.path.append(str(ROOT / "tests"))
    import support  # noqa: F401  (loads the package)

    {"errors": errors, "file": file, "child": child}[args.command](args)


if __name__ == "__main__":
    main()
