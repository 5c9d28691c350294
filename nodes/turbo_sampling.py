"""Schedule and sampler of TurboDiffusion, and what of it can be tried on other Wan models."""

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..services.node import Node
from ..services.progress import executing, say
from ..turbo.merge import merge_rcm
from ..turbo.sampler import sample
from ..turbo.schedule import SIGMA_MAX, rcm_times
from ..turbo.sla import pays, require_wan, with_sparse_attention

CATEGORY, EXPERIMENTS = "SteadyDancer/TurboDiffusion", "SteadyDancer/experiments"


class SteadyDancerRCMSchedule(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerRCMSchedule",
            display_name="rCM Schedule",
            category=CATEGORY,
            description="TurboDiffusion's noise levels for 1 to 4 steps.",
            search_aliases=["scheduler", "sigmas", "turbodiffusion", "rcm"],
            inputs=[
                io.Int.Input("steps", default=4, min=1, max=4, tooltip="Steps. Published: 4."),
                io.Combo.Input(
                    "preset",
                    options=[*SIGMA_MAX, "custom"],
                    default="t2v",
                    tooltip="t2v starts at sigma 80, i2v at 200, as published. custom takes the number below.",
                ),
                io.Float.Input(
                    "sigma_max",
                    default=80.0,
                    min=1.0,
                    max=10000.0,
                    step=1.0,
                    tooltip="Only for custom: the first noise level. More (up to 1600) gives less variety.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, preset: str, sigma_max: float) -> io.NodeOutput:
        return io.NodeOutput(torch.tensor(rcm_times(steps, SIGMA_MAX.get(preset, sigma_max))))


class SteadyDancerTurboSampler(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerTurboSampler",
            display_name="TurboDiffusion Sampler",
            category=CATEGORY,
            description="Samples as published: no guidance, one stream of noise, and the low-noise expert where the time "
            "is below 0.9.",
            search_aliases=["turbowan", "rcm", "lcm", "two experts"],
            inputs=[
                io.Model.Input("model", tooltip="A TurboDiffusion model; of two experts the high-noise one."),
                io.Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="The low-noise expert, for image to video. The same model as above does no harm.",
                ),
                io.Conditioning.Input("positive", tooltip="The prompt. There is no negative one: no guidance is used."),
                io.Sigmas.Input("sigmas", tooltip="From rCM Schedule."),
                io.Latent.Input("latent", tooltip="An empty video latent, or that of Wan Image To Video."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of all the noise.",
                ),
                io.Combo.Input(
                    "noise_device",
                    options=["cpu", "gpu"],
                    default="cpu",
                    tooltip="Where noise is drawn. cpu gives the same video on every machine; gpu is what the published "
                    "code does.",
                ),
                io.Boolean.Input(
                    "ode",
                    default=False,
                    tooltip="Follow the velocity without new noise in every step: sharper, less robust. The authors' "
                    "command has it on for image to video, off for text to video.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: list,
        sigmas: torch.Tensor,
        latent: Any,
        seed: int,
        noise_device: str,
        ode: bool,
        model_low: ModelPatcher | None = None,
    ) -> io.NodeOutput:
        start = comfy.sample.fix_empty_latent_channels(
            model,
            latent["samples"],
            latent.get("downscale_ratio_spacial"),
            latent.get("downscale_ratio_temporal"),
        )
        device = model.load_device if noise_device == "gpu" else torch.device("cpu")
        samples = sample(
            model,
            model_low,
            positive,
            start,
            sigmas.tolist(),
            torch.Generator(device).manual_seed(seed),
            mask=latent.get("noise_mask"),
            ode=ode,
            seed=seed,
            callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
            quiet=not comfy.utils.PROGRESS_BAR_ENABLED,
        )
        kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
        return io.NodeOutput({**kept, "samples": samples.to(comfy.model_management.intermediate_device())})


class SteadyDancerSparseAttention(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerSparseAttention",
            display_name="Sparse Attention (experimental)",
            category=EXPERIMENTS,
            description="Self-attention that looks at the most similar blocks of the video only. The weights were not "
            "trained for it: it is faster for long videos, and costs quality.",
            search_aliases=["sla", "block sparse", "speed"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="A SteadyDancer or Wan model. TurboDiffusion models have their own."),
                io.Float.Input(
                    "keep",
                    default=0.5,
                    min=0.3,
                    max=1.0,
                    step=0.05,
                    tooltip="Part of the blocks that are looked at. Less is faster and harms more.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, keep: float) -> io.NodeOutput:
        if not pays(model):
            require_wan(model)
            say(
                executing().node_id,
                "Sparse attention is left out: on this GPU it would be slower than without, because its kernels need Triton "
                "and an NVIDIA card from the RTX 30 series on. The log says what is missing.",
            )
            return io.NodeOutput(model)
        return io.NodeOutput(with_sparse_attention(model, keep))


class SteadyDancerRCMMerge(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerRCMMerge",
            display_name="Merge rCM Difference (experimental)",
            category=EXPERIMENTS,
            description="Adds what rCM training changed in Wan's text-to-video model to SteadyDancer. Nobody has shown that "
            "this works well.",
            search_aliases=["turbodiffusion", "merge", "rcm"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="An unquantised SteadyDancer model."),
                io.Model.Input("rcm", tooltip="TurboWan 2.1 text to video 14B, unquantised."),
                io.Model.Input("base", tooltip="Wan 2.1 text to video 14B, unquantised: what rCM started from."),
                io.Float.Input(
                    "strength", default=1.0, min=-2.0, max=2.0, step=0.05, tooltip="How much of the difference."
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, rcm: ModelPatcher, base: ModelPatcher, strength: float) -> io.NodeOutput:
        return io.NodeOutput(merge_rcm(model, rcm, base, strength))
