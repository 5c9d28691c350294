"""The loader of TurboDiffusion models."""

from functools import partial
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..catalog.catalog import catalogue
from ..loaders.errors import DownloadCancelled
from ..loaders.turbo import SUFFIXES, both_experts, load_turbo, prepared
from ..services.progress import NodeProgress, cancelled, say, stop
from ..turbo.sla import with_sla
from .loaders import CATEGORY, PLAN_INPUT, accepted, disk_files, fetch, fingerprint, parts, with_plan


def files(chosen: str) -> list[Path]:
    """The file of a model, or of both its experts, fetched if need be."""
    if chosen in catalogue().variants:
        return fetch(*catalogue().variants[chosen].diffusion)
    return both_experts(Path(folder_paths.get_full_path_or_raise("diffusion_models", chosen)))


def variant_of(chosen: str):
    """The catalogue's variant whose text encoder and VAE go with the model: those of all are the same."""
    return catalogue().variants.get(chosen) or catalogue().variants_for("turbo")[0]


class SteadyDancerTurboLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        variants = [variant.id for variant in catalogue().variants_for("turbo")]
        own = [name for name in disk_files() if name.lower().endswith(SUFFIXES)]
        return io.Schema(
            node_id="SteadyDancerTurboLoader",
            display_name="Load TurboDiffusion (auto-download)",
            category=CATEGORY,
            description="Loads a TurboDiffusion model with its encoder and VAE, and fetches what is missing.",
            search_aliases=["download", "turbowan", "turbodiffusion", "rcm", "sla", "wan"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*variants, *own],
                    default=variants[0],
                    tooltip="Which model. What is not here is downloaded, and a .pth is converted once to safetensors. "
                    "Your own files in diffusion_models are listed last; of a pair, choose the high-noise expert.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "fp32", "bf16", "int8"],
                    default="auto",
                    tooltip="auto computes in bf16 with the weights as the file has them. "
                    "int8 quantises other files while loading: half the memory. fp32 is for comparisons.",
                ),
                io.Combo.Input(
                    "attention",
                    options=["sla", "dense"],
                    default="sla",
                    tooltip="sla is the sparse and linear attention that the weights were trained with. "
                    "dense ignores it: slower, and another result.",
                ),
                io.Float.Input(
                    "topk",
                    default=0.1,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the blocks that sla looks at exactly. 0.1 is the authors' default, and 0.15 what they "
                    "recommend for better quality; more is slower.",
                ),
                PLAN_INPUT,
            ],
            outputs=[
                io.Model.Output(),
                io.Model.Output("model_low", display_name="MODEL (low noise)"),
                io.Clip.Output(),
                io.Vae.Output(),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model, precision, attention, topk, plan=None):
        return fingerprint(model, precision, attention, topk)

    @classmethod
    def execute(cls, model, precision, attention, topk, plan=None) -> io.NodeOutput:
        meter = accepted(plan, model)
        node_id = get_executing_context().node_id
        try:
            tell = partial(say, node_id)
            paths = [prepared(path, NodeProgress(node_id, "B"), cancelled, tell) for path in files(model)]
            models = load_turbo(paths, precision, NodeProgress(node_id, "layers"), cancelled)
        except DownloadCancelled:
            stop()
            raise
        patchers = [with_plan(with_attention(*loaded, attention, topk), meter) for loaded in models]
        clip, _, vae = parts(variant_of(model), meter)
        return io.NodeOutput(patchers[0], patchers[-1], clip, vae)


def with_attention(model, projections, attention: str, topk: float):
    return model if attention == "dense" else with_sla(model, projections, topk)
