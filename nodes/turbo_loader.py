"""The loader of TurboDiffusion models."""

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..loaders.turbo import SUFFIXES
from ..planning.plan import Plan
from ..services import loading
from ..services.models import turbo_models
from ..services.node import Node
from .loaders import PLAN_INPUT, variants


class SteadyDancerTurboLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        known = variants("turbo")
        own = [name for name in loading.own_files() if name.lower().endswith(SUFFIXES)]
        return io.Schema(
            node_id="SteadyDancerTurboLoader",
            display_name="Load TurboDiffusion (auto-download)",
            category="SteadyDancer/TurboDiffusion",
            description="Loads a TurboDiffusion model with its encoder and VAE, and fetches what is missing.",
            search_aliases=["download", "turbowan", "turbodiffusion", "rcm", "sla", "wan"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*known, *own],
                    default=known[0],
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
    def fingerprint_inputs(cls, model: str, precision: str, attention: str, topk: float, plan: Any = None) -> list:
        return loading.fingerprint(model, precision, attention, topk)

    @classmethod
    def execute(
        cls, model: str, precision: str, attention: str, topk: float, plan: Plan | None = None
    ) -> io.NodeOutput:
        build = partial(turbo_models, precision=precision, attention=attention, topk=topk)
        loaded = loading.load("turbo", model, plan, build, ("diffusion", "diffusion", "text_encoder", "vae"))
        return io.NodeOutput(loaded.models[0], loaded.models[-1], loaded.clip, loaded.vae)
