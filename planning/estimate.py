"""How much memory and time each phase of a job takes with given settings: the planner's arithmetic, and nothing else.

Source of the terms: measured and published numbers of Wan in ComfyUI, and the dry runs in activations/.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..base.toml import read_toml
from ..machine import gpus
from ..machine.card import Card
from .model_sizes import CONVROT, Model, kinds
from .plan import Job, Phase

SLACK = 0.08  # allocator rounding and fragments, of what comes and goes
HEADROOM = 0.5e9  # left free where blocks are offloaded: one block less on the card costs little, running out a run
STREAMS = 2  # ComfyUI brings over up to this many layers ahead
OFFLOADED = 1.15  # a guess between all hidden, as ComfyUI means it, and DiffSynth's 1.26 with all blocks in RAM
ENCODE_TILE = 256  # what ComfyUI's own encode falls back to
TILES = (0, 512, 384, 256)
TILE_OVERLAP = 64
WITHOUT_KERNELS = 3.0  # times a 16-bit product: int8 in ComfyUI where torch is not for CUDA 13, as its users report
POSE_STEPS = 11 / 40  # part of the steps with a third guidance branch: those with 0.1 < i / 40 < 0.4
HOST_COPIES = 4  # driving video, pose video, decoded video, the one being encoded: float32 images in RAM
HOST_BASE = 4e9


@dataclass(frozen=True)
class Parts:
    """Bytes of the encoders' and the VAE's weights, on disk and in memory."""

    text_encoder: int
    clip_vision: int
    vae: int


@dataclass(frozen=True)
class Settings:
    """What the solver may change: guidance branches in one batch or one by one, blocks that stay on the card, tile of the
    VAE's decode in pixels (0: whole), and where the text encoder runs. `together`: no model leaves the card for another."""

    batched: bool
    kept: int
    vae_tile: int
    text_encoder: str
    together: bool = False


@lru_cache(maxsize=1)
def activations_tables() -> tuple[dict, ...]:
    """Bytes of activations per architecture and dtype, a table for each ComfyUI that tools/activations.py has counted."""
    return tuple(read_toml(table) for table in sorted((Path(__file__).parent / "activations").glob("*.toml")))


def tokens(job: Job, model: Model) -> int:
    """Positions that attention sees: 4 frames in a latent frame, 16 × 16 pixels in a token, reference frames among them."""
    frames = (job.frames - 1) // 4 + 1 + model.reference_frames
    return frames * -(-job.width // 16) * -(-job.height // 16)


def activation_bytes(job: Job, card: Card, model: Model, branches: int) -> int:
    """Of one evaluation of the diffusion model with `branches` in a batch, uncorrected, by the ComfyUI that takes most."""
    dtype, kernels = ("fp32", "cpu") if card.sm == 0 else ("bf16", "fused" if card.fused else "eager rope")
    count = tokens(job, model)
    latents = 2000 * count  # noise, conditioning and what a sampler remembers, in float32
    if own := kinds()["architectures"][model.architecture].get("token_bytes"):
        return round(own * count * branches * (2 if dtype == "fp32" else 1) + latents)
    lines = [table["diffusion"][model.architecture][dtype][kernels] for table in activations_tables()]
    return round(max(x["branch"] * count * branches + x["shared"] * count + x["constant"] for x in lines) + latents)


def vae_bytes(job: Job, card: Card, direction: str, tile: int) -> int:
    """Of decoding or encoding the clip, in tiles of `tile` pixels where that is not 0, uncorrected."""
    lines = [table["vae"]["wan"]["fp32" if card.sm == 0 else "bf16"][direction] for table in activations_tables()]
    pixels, frames = job.width * job.height, job.frames
    if tile:
        pixels = min(pixels, tile * tile)
    return round(max(pixels * (line["pixel"] + line["frame"] * frames) for line in lines))


def phases(
    job: Job, card: Card, model: Model, parts: Parts, settings: Settings, corrections: dict
) -> tuple[Phase, ...]:
    """Every phase of the job, in the order in which they run. `corrections` scale the activations of a phase."""
    part = kinds()["parts"]
    rate = card.bf16 * gpus.efficiency(card.sm)
    found = []

    def add(
        name: str, weights: int, activations: float, seconds: float, where: str = "gpu", transient: int = 0
    ) -> None:
        correction = corrections.get(name, 1.0)
        corrected = round(activations * correction)
        slack = round(SLACK * (corrected + transient))
        found.append(Phase(name, where, round(weights), corrected, round(transient), slack, seconds, correction))

    encoder, vision, pose, vae = (part[name] for name in ("text_encoder", "clip_vision", "pose", "vae"))
    on_gpu = settings.text_encoder == "gpu"
    text_seconds = encoder["flop"] / (rate if on_gpu else encoder["cpu_flops"])
    add("text_encode", parts.text_encoder, encoder["activations"], text_seconds, settings.text_encoder)
    if parts.clip_vision:
        add("image_encode", parts.clip_vision, vision["activations"], vision["flop"] / rate)
    if job.pose:
        add("pose", pose["weights"], pose["activations"], pose["flop_frame"] * job.frames / rate)
    volume = job.width * job.height * job.frames
    encodes = 3 if job.pose else 1  # the picture, the poses, and the negative poses
    tile = encode_tile(job, card, parts, corrections)
    seconds = encodes * volume * vae["encode_flop"] * overlap_cost(tile) / rate
    add("vae_encode", parts.vae, vae_bytes(job, card, "encode", tile), seconds)
    found.append(sample_phase(job, card, model, settings, corrections))
    seconds = volume * vae["decode_flop"] * overlap_cost(settings.vae_tile) / rate
    add("vae_decode", parts.vae, vae_bytes(job, card, "decode", settings.vae_tile), seconds)
    if settings.together:
        own = {"text_encode": parts.text_encoder, "image_encode": parts.clip_vision, "sample": found[-2].weights}
        own |= {"vae_decode": parts.vae}
        all_of_them = sum(own[phase.name] for phase in found if phase.where == "gpu" and phase.name in own)
        own["vae_encode"] = parts.vae
        found = [replace(p, weights=p.weights + all_of_them - own.get(p.name, 0)) for p in found]
    found.append(Phase("frames", "cpu", activations=12 * volume * HOST_COPIES))
    return tuple(found)


def sample_phase(job: Job, card: Card, model: Model, settings: Settings, corrections: dict) -> Phase:
    """The evaluations of the diffusion model: by far the longest phase."""
    branches = job.branches if settings.batched else 1
    correction = corrections.get("sample", 1.0)
    activations = round(activation_bytes(job, card, model, branches) * correction)
    offloading = settings.kept < model.blocks
    # On packed weights a LoRA runs beside the layer.
    patched = job.lora_bytes and (not model.unpacks or model.precision in ("fp8", CONVROT))
    unpacked = 0 if native(model, card) and not patched else model.unpacks
    if model.precision == CONVROT and not multiplies_convrot(card):  # sums of products as int32
        unpacked += round(4 * model.largest / model.dim * tokens(job, model) * branches)
    buffers = model.layer * (STREAMS + 1) if offloading else 0
    patching = round(4 * model.largest) if patched else 0  # a layer's change in float32
    transient = unpacked + buffers + patching + job.lora_bytes
    weights = model.other_bytes + settings.kept * model.block_bytes
    slack = round(SLACK * (activations + transient) + (HEADROOM if offloading else 0))
    seconds = sample_seconds(job, card, model, settings)
    return Phase("sample", "gpu", weights, activations, transient, slack, seconds, correction)


def native(model: Model, card: Card) -> bool:
    """Whether the card multiplies the weights as they are stored."""
    return model.unpacks == 0 or eight_bit_rate(model, card) > 0


def eight_bit_rate(model: Model, card: Card) -> float:
    """FLOP/s of the 8-bit units with the weights as they are stored; 0 where there are none for them."""
    if model.precision == CONVROT:
        return 2 * card.bf16 if multiplies_convrot(card) else 0.0
    if not model.multiplies or (model.precision == "int8" and card.sm // 10 == 10):  # B200: see quant/layout.py
        return 0.0
    # int8 has units since Ampere, twice as fast as the 16-bit ones; fp8 since Ada.
    return card.fp8 or (2 * card.bf16 if model.precision == "int8" and card.sm >= 80 else 0.0)


def multiplies_convrot(card: Card) -> bool:
    """Whether ComfyUI multiplies rotated int8 fast: with comfy-kitchen's kernels, which need a torch for CUDA 13, on cards
    whose 8-bit units are known to be twice as fast, Turing to Hopper."""
    return card.fused and 75 <= card.sm <= 90


def sample_seconds(job: Job, card: Card, model: Model, settings: Settings) -> float:
    """All steps. The transfer of an offloaded block hides under arithmetic, but not well."""
    evaluations = job.branches if job.branches < 3 else 2 + POSE_STEPS
    forwards = 1 if settings.batched else evaluations
    arithmetic = evaluations * block_seconds(job, card, model) + forwards * unpack_seconds(card, model)
    transfer = forwards * model.block_bytes / card.pcie if card.pcie else 0.0
    offloaded = OFFLOADED * max(arithmetic, transfer)
    return job.steps * (settings.kept * arithmetic + (model.blocks - settings.kept) * offloaded)


def block_seconds(job: Job, card: Card, model: Model) -> float:
    """One block for one branch: its products and its attention."""
    count, part = tokens(job, model), gpus.efficiency(card.sm)
    products = 2 * model.token_weights * count
    if model.precision == CONVROT and not multiplies_convrot(card):
        products *= WITHOUT_KERNELS
    attention = 4 * count * (count * model.attention + model.context) * model.dim
    fast = eight_bit_rate(model, card) or card.bf16
    return products / (fast * part) + attention / (card.bf16 * part)


def unpack_seconds(card: Card, model: Model) -> float:
    """Unpacking one block's weights, once for all branches of a batch."""
    if native(model, card) or not card.bandwidth:
        return 0.0
    return (model.block_bytes + 2 * model.total_weights) / (0.6 * card.bandwidth)


def encode_tile(job: Job, card: Card, parts: Parts, corrections: dict) -> int:
    """0 where the VAE encodes whole frames; else the tile that ComfyUI falls back to by itself."""
    whole = vae_bytes(job, card, "encode", 0) * corrections.get("vae_encode", 1.0) * (1 + SLACK) + parts.vae
    return 0 if whole <= card.free else ENCODE_TILE


def overlap_cost(tile: int) -> float:
    """How much more is computed where tiles overlap."""
    return (tile / (tile - TILE_OVERLAP)) ** 2 if tile else 1.0
