"""Writes planning/activations/VERSION.toml: how much memory a model's activations take, without a GPU and its weights.

    python tools/activations.py --comfyui PATH [--write | --check]

ComfyUI's own networks run on torch's meta device, where tensors have shapes and no values, while every storage is counted
from the moment it is made until it is dropped. A line is fitted to the peaks of many shapes. `--check` runs small networks
on the CPU as well and compares the dry run with torch's profiler, which sees every allocation. Run it with another
ComfyUI and it writes a table for that one: the planner takes the larger numbers. benchmarks/README.md has the comparison.
"""

import argparse
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "planning" / "activations"

WAN_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40}
WAN_1_3B = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12}
ARCHITECTURES = {
    "steadydancer": {"model_type": "i2v", "in_dim": 36, **WAN_14B},
    "wan-14b-i2v": {"model_type": "i2v", "in_dim": 36, **WAN_14B},
    "wan-14b-t2v": {"model_type": "t2v", "in_dim": 16, **WAN_14B},
    "wan-1.3b-t2v": {"model_type": "t2v", "in_dim": 16, **WAN_1_3B},
}
# Latent frames, height and width: 480p × 33 to 720p × 121 frames, and one upright.
SHAPES = [(9, 60, 104), (21, 60, 104), (21, 72, 128), (21, 90, 160), (31, 90, 160), (21, 104, 60)]
VAE_SHAPES = [(9, 60, 104), (21, 60, 104), (21, 90, 160), (31, 72, 128)]


Shape = tuple[int, int, int]  # latent frames, height, width


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is entered, and the most that lived at once.

    `held` are tensors that are there before and are not counted. `workspace(input, weight, output)` gives the bytes that a
    convolution needs while it runs.
    """

    def __init__(self, held: Iterable[torch.Tensor], workspace: Callable[..., int] | None = None) -> None:
        super().__init__()
        self.storages = [tensor.untyped_storage() for tensor in held]  # kept, so that none of their ids is used again
        self.sizes = {storage._cdata: 0 for storage in self.storages}
        self.workspace = workspace
        self.live = self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        extra = 0
        if self.workspace and operation.overloadpacket == torch.ops.aten.convolution:
            extra = self.workspace(*args[:2], result)
        self.peak = max(self.peak, self.live + extra)
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        """Adds a storage that has just been made; it goes off the account when nothing holds it any more."""
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self.drop, key)

    def drop(self, key: int) -> None:
        """Takes a storage off the account."""
        self.live -= self.sizes.pop(key)


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def cudnn_workspace(input: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> int:
    """cuDNN changes the layout of what goes in and comes out."""
    return nbytes(input) + nbytes(output)


def cpu_workspace(input: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> int:
    """oneDNN copies the input into its own layout, but for 1×1; small convolutions are unfolded into columns instead."""
    if weight[0, 0].numel() == 1:
        return 0
    if input.numel() > 20480:
        return nbytes(input)
    return input.element_size() * weight[0].numel() * output[0, 0].numel()


def attention_without_scores(
    original: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """What flash attention leaves: the result, and a float32 number a head and token. q is [B, tokens, dim]."""
    sums = torch.empty(q.shape[0], heads, q.shape[1], device=q.device)  # noqa: F841 - counted while it lives
    return torch.empty_like(q)


def same_shape(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stands for an operation that makes one tensor like its input and nothing beside."""
    return torch.empty_like(input)


@contextmanager
def kernels(kind: str) -> Iterator[None]:
    """`fused`: rotary embedding and RMS norm as one kernel each, as on a GPU with comfy-kitchen's CUDA kernels (CUDA 13).
    `eager rope`: RMS norm is one kernel, the rotary embedding several. `cpu`: everything as torch does it."""
    import comfy.ldm.flux.math as flux

    with ExitStack() as stack:
        stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", same_shape))
        if kind != "cpu":
            stack.enter_context(patch("torch.nn.functional.rms_norm", same_shape))
            stack.enter_context(patch("torch.rms_norm", same_shape))
        rope = same_shape if kind == "fused" else flux._apply_rope1
        stack.enter_context(patch("comfy.ldm.wan.model.apply_rope1", rope))
        yield


def diffusion_network(architecture: str, size: dict, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """ComfyUI's Wan network, or SteadyDancer's, with two blocks: more of them hold no more activations at a time."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel
    from steadydancer.dancer.network import SteadyDancerModel

    kind = SteadyDancerModel if architecture == "steadydancer" else WanModel
    settings = {"num_layers": 2, "out_dim": 16, "device": device, "dtype": dtype}
    return kind(**{**size, **settings}, operations=comfy.ops.manual_cast).eval()


def diffusion_inputs(architecture: str, size: dict, shape: Shape, batch: int, device: str, dtype: torch.dtype) -> dict:
    """What the network is called with, all zeros: latents, 512 tokens of text, and CLIP features and poses where it has them."""

    def zeros(*sizes: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(batch, *sizes, device=device, dtype=dtype)

    inputs = {"x": zeros(size["in_dim"], *shape), "timestep": zeros(dtype=torch.float32), "context": zeros(512, 4096)}
    if size["model_type"] == "i2v":
        inputs["clip_fea"] = zeros(257, 1280)
    if architecture == "steadydancer":
        inputs["pose_latents"] = zeros(16, *shape)
        inputs["clip_fea_pose"] = zeros(257, 1280)
    return inputs


def tensors_of(network: torch.nn.Module, inputs: dict) -> list[torch.Tensor]:
    """What is there before a network runs: its weights and its inputs."""
    return [*network.parameters(), *network.buffers(), *inputs.values()]


def diffusion_dry_run(
    architecture: str,
    size: dict,
    shape: Shape,
    batch: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    kind: str = "fused",
) -> int:
    """Peak bytes of one evaluation beside weights and inputs."""
    network = diffusion_network(architecture, size, "meta", dtype)
    inputs = diffusion_inputs(architecture, size, shape, batch, "meta", dtype)
    workspace = cpu_workspace if kind == "cpu" else cudnn_workspace
    with torch.no_grad(), kernels(kind), StorageTracker(tensors_of(network, inputs), workspace) as tracker:
        network(**inputs, transformer_options={"optimized_attention_override": attention_without_scores})
    return tracker.peak


def vae_network(dim: int, device: str, dtype: torch.dtype, attention: Callable) -> torch.nn.Module:
    """ComfyUI's Wan VAE of width `dim`, all of its attention replaced by `attention`."""
    from comfy.ldm.wan.vae import WanVAE

    with torch.device(device):
        network: Any = WanVAE(dim=dim, z_dim=16).to(dtype).eval()
    for module in network.modules():
        if hasattr(module, "optimized_attention"):
            module.optimized_attention = attention
    return network


def vae_input(direction: str, shape: Shape, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Zeros: a latent of `shape` to decode, or the video that has such a latent to encode."""
    t, h, w = shape
    sizes = (1, 16, t, h, w) if direction == "decode" else (1, 3, 4 * t - 3, h * 8, w * 8)
    return torch.zeros(sizes, device=device, dtype=dtype)


def vae_dry_run(
    direction: str, shape: Shape, dim: int = 96, dtype: torch.dtype = torch.bfloat16, kind: str = "fused"
) -> int:
    """Peak bytes of one decode or encode beside weights and input."""
    network = vae_network(dim, "meta", dtype, same_shape)
    x = vae_input(direction, shape, "meta", dtype)
    workspace = cpu_workspace if kind == "cpu" else cudnn_workspace
    with torch.no_grad(), StorageTracker([*network.parameters(), *network.buffers(), x], workspace) as tracker:
        getattr(network, direction)(x)
    return tracker.peak


def fit(rows: list[tuple[list[float], int]]) -> tuple[list[float], float]:
    """Least squares with the relative error of every row weighing the same; coefficients and the largest error."""
    factors = torch.tensor([row for row, _ in rows], dtype=torch.float64)
    peaks = torch.tensor([peak for _, peak in rows], dtype=torch.float64)
    answer = torch.linalg.lstsq(factors / peaks[:, None], torch.ones(len(rows), 1, dtype=torch.float64)).solution[:, 0]
    return answer.tolist(), ((factors @ answer) / peaks - 1).abs().max().item()


def tokens_of(architecture: str, shape: Shape) -> int:
    """Tokens of a latent, 2×2 pixels each; SteadyDancer adds two reference frames."""
    t, h, w = shape
    return (t + 2 * (architecture == "steadydancer")) * (h // 2) * (w // 2)


def diffusion_line(architecture: str, dtype: torch.dtype, kind: str) -> str:
    """A network's line of the table, fitted to all sizes and one to three branches in a batch."""
    size = ARCHITECTURES[architecture]
    rows: list[tuple[list[float], int]] = []
    for shape in SHAPES:
        for batch in (1, 2, 3):
            peak = diffusion_dry_run(architecture, size, shape, batch, dtype, kind)
            tokens = tokens_of(architecture, shape)
            rows.append(([batch * tokens, tokens, 1], peak))
    (per_branch, shared, constant), error = fit(rows)
    return (
        f'"{kind}" = {{ branch = {per_branch:.1f}, shared = {shared:.1f}, constant = {constant:.0f}, '
        f"error_percent = {100 * error:.2f} }}"
    )


def vae_line(direction: str, dtype: torch.dtype) -> str:
    """The VAE's line of the table for decode or encode, fitted to all sizes."""
    rows: list[tuple[list[float], int]] = []
    for shape in VAE_SHAPES:
        pixels, frames = shape[1] * shape[2] * 64, 4 * shape[0] - 3
        rows.append(([pixels, pixels * frames], vae_dry_run(direction, shape, dtype=dtype)))
    (pixel, frame), error = fit(rows)
    return f"{direction} = {{ pixel = {pixel:.1f}, frame = {frame:.3f}, error_percent = {100 * error:.2f} }}"


def table() -> str:
    """The whole of a table."""
    from comfyui_version import __version__

    names = {torch.bfloat16: "bf16", torch.float32: "fp32"}
    lines = [
        "# Bytes of activations, written by tools/activations.py: do not edit. A diffusion model needs",
        "# branch · tokens · (branches in one batch) + shared · tokens + constant; the Wan VAE pixel + frame · frames, times the",
        "# pixels of a frame. fp16 is as bf16. error_percent is the largest distance of that line from the dry runs.",
        f'comfyui = "{__version__}"',
        f'torch = "{torch.__version__.partition("+")[0]}"',
    ]
    for architecture in ARCHITECTURES:
        for dtype, name in names.items():
            lines += ["", f'[diffusion."{architecture}".{name}]']
            lines += [diffusion_line(architecture, dtype, kind) for kind in ("fused", "eager rope", "cpu")]
    for dtype, name in names.items():
        lines += ["", f"[vae.wan.{name}]"]
        lines += [vae_line(direction, dtype) for direction in ("decode", "encode")]
    return "\n".join(lines) + "\n"


def measured_peak(call: Callable[[], object]) -> int:
    """Peak bytes that `call` allocates on the CPU, by the allocator events of torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    live = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        live += size
        peak = max(peak, live)
    return peak


TINY = {"dim": 256, "ffn_dim": 1024, "num_heads": 2}
MIDDLE = {"dim": 1024, "ffn_dim": 2816, "num_heads": 8}
CHECKED_SHAPES = [(3, 30, 52), (5, 30, 52), (9, 30, 52), (5, 52, 30), (5, 36, 64), (3, 60, 104)]
CHECKED_VAE_SHAPES = [(3, 24, 24), (5, 24, 24), (3, 24, 32), (3, 32, 24), (4, 32, 32), (7, 24, 24)]


def check_diffusion(architecture: str, size: dict, shape: Shape, batch: int, dtype: torch.dtype) -> tuple[int, int]:
    """Predicted and measured peak bytes on the CPU."""
    from comfy.ldm.modules.attention import attention_pytorch

    def attention(original: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        return attention_pytorch(*args, **kwargs)

    size = {"model_type": "i2v", "in_dim": 36, **size}
    predicted = diffusion_dry_run(architecture, size, shape, batch, dtype, "cpu")
    network = diffusion_network(architecture, size, "cpu", dtype)
    inputs = diffusion_inputs(architecture, size, shape, batch, "cpu", dtype)
    options = {"optimized_attention_override": attention}
    return predicted, measured_peak(lambda: network(**inputs, transformer_options=options))


def check_vae(direction: str, shape: Shape, dim: int) -> tuple[int, int]:
    """Predicted and measured peak bytes on the CPU, in float32."""
    from comfy.ldm.modules.diffusionmodules.model import pytorch_attention

    network = vae_network(dim, "cpu", torch.float32, pytorch_attention)
    x = vae_input(direction, shape, "cpu", torch.float32)
    predicted = vae_dry_run(direction, shape, dim, torch.float32, "cpu")
    return predicted, measured_peak(lambda: getattr(network, direction)(x))


def checks() -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and (predicted, measured) of small networks on the CPU."""
    for architecture in ("steadydancer", "wan-14b-i2v"):
        for label, size, dtype in (("tiny", TINY, torch.float32), ("middle", MIDDLE, torch.bfloat16)):
            for shape in CHECKED_SHAPES:
                for batch in (1, 2):
                    name = f"{architecture} {label} {str(dtype)[6:]} {'×'.join(map(str, shape))} batch {batch}"
                    yield name, check_diffusion(architecture, size, shape, batch, dtype)
    for direction in ("decode", "encode"):
        for dim in (64, 96):
            for shape in CHECKED_VAE_SHAPES:
                yield f"VAE {direction} width {dim} {'×'.join(map(str, shape))}", check_vae(direction, shape, dim)


def main() -> None:
    """Prints the table, writes it, or checks the dry runs against the profiler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True, help="ComfyUI's folder")
    parser.add_argument(
        "--write", action="store_true", help="write it into planning/activations instead of printing it"
    )
    parser.add_argument("--check", action="store_true", help="compare with the profiler on the CPU")
    args = parser.parse_args()
    load(args.comfyui)
    if args.check:
        print(f"{'network':<56} {'predicted MB':>12} {'measured MB':>12} {'ratio':>7}")
        for name, (predicted, measured) in checks():
            print(
                f"{name:<56} {predicted / 1e6:>12.1f} {measured / 1e6:>12.1f} {predicted / measured:>7.3f}", flush=True
            )
    elif args.write:
        from comfyui_version import __version__

        Path(TABLES, f"{__version__}.toml").write_text(table(), encoding="utf-8")
    else:
        print(table(), end="")


def load(comfyui: str, cpu: bool = True) -> None:
    """ComfyUI, and this package under its own name."""
    sys.path[:] = [
        comfyui,
        *(entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tools")),
    ]
    sys.argv[1:] = ["--cpu"] if cpu else []
    import comfy.options

    comfy.options.enable_args_parsing()
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "steadydancer", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader, "a path to a file gives both"
    sys.modules["steadydancer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["steadydancer"])


if __name__ == "__main__":
    main()
