"""Step time and peak memory of SteadyDancer 14B in GGUF against bf16, with random weights. Needs an NVIDIA GPU to mean much.

    python benchmarks/quantised_step.py --comfyui PATH [--kinds bf16 Q4_K Q8_0] [--frames 81] [--width 832] [--height 480]
                                        [--loras 0 4] [--blocks 40] [--keys 14b|tiny] [--peer PATH]

Each kind is loaded and placed by ComfyUI, then evaluated four times; the first is not counted. Nothing is written to disk.
With --peer, a ComfyUI-GGUF checkout, there is a row of its own nodes beside each packed kind, from the same kind of blocks.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def load_peer(folder: str):
    """ComfyUI-GGUF by path, as a package."""
    spec = importlib.util.spec_from_file_location(
        "comfyui_gguf", Path(folder) / "__init__.py", submodule_search_locations=[folder]
    )
    sys.modules["comfyui_gguf"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["comfyui_gguf"])
    return sys.modules["comfyui_gguf"]


def peers_tensor(data: torch.Tensor, number: int, shape: tuple[int, ...]):
    import gguf
    from comfyui_gguf.ops import GGMLTensor

    kind = gguf.GGMLQuantizationType(number)
    return GGMLTensor(data, tensor_type=kind, tensor_shape=torch.Size(shape))


def state_dict(keys: str, kind: str, blocks: int = 40, peer: bool = False) -> dict[str, torch.Tensor]:
    """Random weights in the published layout; Linear weights of the first `blocks` blocks in `kind`, the rest in bf16."""
    from steadydancer.quant.blocks import BLOCKS
    from steadydancer.quant.layout import packed

    tensors = {}
    maker = "cuda" if torch.cuda.is_available() else "cpu"  # a CPU takes minutes to draw them
    for line in (ROOT / f"tests/golden/steadydancer_{keys}.keys.tsv").read_text("utf-8").splitlines():
        if not line.strip():
            continue
        key, sizes = line.split("\t")[:2]
        if key.startswith("blocks.") and int(key.split(".")[1]) >= blocks:
            continue
        shape = tuple(map(int, sizes.split(",")))
        if kind != "bf16" and key.startswith("blocks.") and key.endswith(".weight") and len(shape) == 2:
            number, block = next(entry for entry in BLOCKS.items() if entry[1].name == kind)
            data = torch.randint(
                0, 256, (shape[0], shape[1] // block.weights, block.bytes), dtype=torch.uint8, device=maker
            )
            data.view(torch.float16).clamp_(-1e-3, 1e-3).nan_to_num_(1e-3)
            data = data.view(shape[0], -1).cpu()
            tensors[key] = peers_tensor(data, number, shape) if peer else packed(data, number, torch.bfloat16)
        else:
            scale = max(1, shape[-1]) ** -0.5
            tensors[key] = (torch.randn(shape, device=maker) * scale).to(torch.bfloat16).cpu()
    return tensors


def measure(args, kind: str, loras: int, peer=None) -> None:
    import comfy.model_management as mm
    import comfy.sd
    from steadydancer.quant.ops import packed_operations
    from steadydancer.quant.patches import with_packed_patches

    operations = sys.modules["comfyui_gguf.ops"].GGMLOps() if peer else packed_operations()
    options = {"dtype": torch.bfloat16} | ({} if kind == "bf16" else {"custom_operations": operations})
    tensors = state_dict(args.keys, kind, args.blocks, peer is not None)
    model = comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options, disable_dynamic=peer is not None)
    del tensors
    if peer:
        model = sys.modules["comfyui_gguf.nodes"].GGUFModelPatcher.clone(model)
    elif kind != "bf16":
        model = with_packed_patches(model)
    for _ in range(loras):
        model = with_lora(model)
    mm.load_models_gpu([model], memory_required=0)
    device, dtype = model.load_device, torch.bfloat16
    t, h, w = (args.frames - 1) // 4 + 1, args.height // 8, args.width // 8
    latent = lambda channels, frames=t: torch.randn(1, channels, frames, h, w, device=device, dtype=dtype)  # noqa: E731
    inputs = {
        "context": torch.randn(1, 512, 4096, device=device, dtype=dtype),
        "clip_fea": torch.randn(1, 257, 1280, device=device, dtype=dtype),
        "clip_fea_pose": torch.randn(1, 257, 1280, device=device, dtype=dtype),
        "pose_latents": latent(16),
        "ref_latent": latent(16, 1),
        "ref_pose_latent": latent(16, 1),
    }
    x, timestep = latent(36), torch.full((1,), 731.0, device=device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            model.model.diffusion_model(x, timestep, **inputs)
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else float("nan")
    dynamic = "dynamic" if model.is_dynamic() else "static"
    weights = model.model_size() / 1e9
    name = f"{kind}, peer" if peer else kind
    print(f"{name:<10} {loras:>5} {dynamic:<8} {weights:>7.2f} {peak:>8.2f} {min(seconds[1:]):>8.3f}", flush=True)
    mm.unload_all_models()


def with_lora(model, rank: int = 64):
    """The model with one random LoRA on all weights of all blocks' layers."""
    from comfy.weight_adapter.lora import LoRAAdapter

    patches = {}
    for name, module in model.model.diffusion_model.named_modules():
        if name.startswith("blocks.") and hasattr(module, "in_features"):
            up, down = torch.randn(module.out_features, rank) * 1e-3, torch.randn(rank, module.in_features) * 1e-3
            patches[f"diffusion_model.{name}.weight"] = LoRAAdapter(set(), (up, down, None, None, None, None))
    model = model.clone()
    model.add_patches(patches)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--kinds", nargs="+", default=["bf16", "Q8_0", "Q4_K"])
    parser.add_argument("--keys", choices=("14b", "tiny"), default="14b")
    parser.add_argument("--loras", type=int, nargs="+", default=[0], help="how many LoRAs; a row for each number")
    parser.add_argument("--blocks", type=int, default=40, help="of the 14B model: one is enough for a ratio on a CPU")
    parser.add_argument("--peer", help="a ComfyUI-GGUF checkout")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    sys.path.insert(0, args.comfyui)
    if not torch.cuda.is_available():
        from comfy.cli_args import args as flags

        flags.cpu = True
    sys.path.append(str(ROOT / "tests"))
    import support  # noqa: F401  (loads the package)
    from steadydancer.dancer.model import register

    register()
    print(f"{'kind':<10} {'LoRAs':>5} {'placing':<8} {'weights':>7} {'peak GB':>8} {'s a step':>8}")
    peer = load_peer(args.peer) if args.peer else None
    for kind in args.kinds:
        for loras in args.loras:
            measure(args, kind, loras)
            if peer and kind != "bf16":
                measure(args, kind, loras, peer)


if __name__ == "__main__":
    main()
