"""What the planner predicts against what people have published: each row of peaks whose settings are known.

    python benchmarks/published_peaks.py --comfyui PATH

Published numbers are from issue threads and logs (WanVideoWrapper, ComfyUI, TurboDiffusion), measured by their authors on
their GPUs. benchmarks/README.md has the table.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import activations  # noqa: E402

GIB, MIB = 1 << 30, 1 << 20


def sampling(variant: str, width: int, height: int, kept: int) -> float:
    """Bytes by the planner's arithmetic with one block on its way, as the wrapper does it, and without slack."""
    from steadydancer.machine import gpus
    from steadydancer.planning.estimate import activation_bytes
    from steadydancer.planning.job import job_for
    from steadydancer.planning.model_sizes import model_of

    model, card = model_of(variant, []), replace(gpus.card("RTX 4090"), fused=True)
    activations = activation_bytes(job_for(variant, width, height, 81), card, model, branches=1)
    return (kept + 1) * model.block_bytes + model.other_bytes + activations


def weights(variant: str) -> float:
    from steadydancer.planning.model_sizes import model_of

    return model_of(variant, []).bytes


def vae(direction: str, pixels: int, frames: int) -> float:
    from steadydancer.planning.estimate import activations_tables

    row = activations_tables()[0]["vae"]["wan"]["bf16"][direction]
    return pixels * (row["pixel"] + row["frame"] * frames)


def unfolded(input, weight, output) -> int:
    """Workspace of convolutions that are unfolded into columns, as MIOpen does it: one frame, so no depth."""
    return (
        input.element_size()
        * weight.shape[1]
        * weight.shape[-1]
        * weight.shape[-2]
        * output.shape[-1]
        * output.shape[-2]
    )


def one_image(direction: str, side: int) -> float:
    """Bytes a pixel of the VAE on a single square image, with unfolded convolutions."""
    network = activations.vae_network(96, "meta", torch.bfloat16, activations.same_shape)
    shape = (1, side // 8, side // 8)
    x = activations.vae_input(direction, shape, "meta", torch.bfloat16)
    with torch.no_grad(), activations.StorageTracker([*network.parameters(), x], unfolded) as tracker:
        getattr(network, direction)(x)
    return tracker.peak


VAE_WEIGHTS = 253.8e6


def rows():
    """Setup, predicted and published bytes, and a remark."""
    yield (
        "sampling, fp16 T2V 14B, 19 of 40 blocks swapped, 1280×704×81",
        sampling("wan2.1/t2v-14b-bf16", 1280, 704, 21),
        21.115 * GIB,
        "time-to-move/TTM#6",
    )
    yield "decode, the same run", vae("decode", 1280 * 704, 81) + VAE_WEIGHTS, 9.601 * GIB, "time-to-move/TTM#6"
    yield (
        "decode, 640×480×81, frames kept on the GPU",
        vae("decode", 640 * 480, 81) + VAE_WEIGHTS,
        3_389_870_592,
        "WanVideoWrapper PR#2042",
    )
    yield (
        "decode, 640×480×81, frames sent to the CPU at once",
        vae("decode", 640 * 480, 0) + VAE_WEIGHTS,
        3_240_571_392,
        "WanVideoWrapper PR#2042",
    )
    yield (
        "sampling, fp16 14B, 20 of 40 blocks swapped, 512×512×81",
        sampling("wan2.1/t2v-14b-bf16", 512, 512, 20),
        16 * GIB,
        "WanVideoWrapper readme, rounded",
    )
    yield (
        "weights of an int8 TurboWan A14B expert",
        weights("turbowan2.2-i2v-a14b-720p/int8"),
        13.56 * GIB,
        "TurboDiffusion#42",
    )
    yield (
        "image decode 1024², unfolded convolutions",
        one_image("decode", 1024),
        4140.5 * MIB,
        "ComfyUI PR#15221 (ROCm)",
    )
    yield (
        "image encode 1024², unfolded convolutions",
        one_image("encode", 1024),
        2310.2 * MIB,
        "ComfyUI PR#15221 (ROCm)",
    )


NOT_EXPLAINED = (
    (
        "Wan 2.2 fp8, all blocks swapped, 44 640 tokens: 7.6 GiB",
        "156 kB a token: its rotary embedding or LoRA is unknown",
    ),
    ("native ComfyUI, 720p×81 in 12 GB", "an upper bound only: predicted activations 6.6 GB are below it"),
    ("Qwen-Image VAE in diffusers' code, 512² to 2048²", "other code"),
    ("1.3B with 1025 frames in windows: under 5 GB", "a bound only, and the window is not given"),
    ("1024×768, 81 frames 23.1 GB, 101 frames 14.5 GB", "two versions of the wrapper; compiled, by its own account"),
    ("Animate 720p, 35 blocks swapped: 16 GB, then 28.7 GB", "another architecture; its frames are not given"),
    (
        "official code: 8.19, 69.1 and 76.7 GB on one GPU",
        "other code, in float32 parts, with the text encoder beside it",
    ),
    ("DiffSynth, 14B bf16: 40, 24 and 8 GB", "other code; size and frames are not given"),
    ("diffusers, group offload: 13 GB, and 35 GB", "other code; size and frames are not given"),
    ("sglang, Wan 2.2 A14B 720p×81: 108 GB", "reserved, not allocated; both experts and their buffers"),
    ("Wan 2.2 fp8 at 640²: 84 % of 24 GB", "dynamic VRAM: it takes what is free"),
    ("fp8 expert at 720p×81: 14.9 to 19.0 GB", "dynamic VRAM: it takes what is free"),
    ("another TurboDiffusion node: 8 to 24 GB by size", "what its author advises, not measured peaks"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True, help="ComfyUI's folder")
    activations.load(parser.parse_args().comfyui)
    print(f"{'setup':<62} {'predicted GB':>12} {'published GB':>12} {'ratio':>6}  source")
    for setup, predicted, published, source in rows():
        print(f"{setup:<62} {predicted / 1e9:>12.2f} {published / 1e9:>12.2f} {predicted / published:>6.3f}  {source}")
    print("\nnot explained:")
    for setup, why in NOT_EXPLAINED:
        print(f"{setup:<62} {why}")


if __name__ == "__main__":
    main()
