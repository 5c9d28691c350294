"""Says before a run whether it fits, hands the plan to the loaders, and compares it with what was measured."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import folder_paths
import numpy as np
import psutil
import torch
from comfy_api.latest import io, ui

from ..budget import gpus
from ..budget.plan import Plan
from ..budget.planner import job_for, plan_job
from ..budget.solve import Host
from ..budget.weights import lora_bytes, plannable
from ..commands.plan import table
from ..loaders import build
from ..loaders.catalog import catalogue
from ..loaders.meter import meter_of
from .card import calibration, present_card
from .loaders import CATEGORY, STEP_DISTILL, PlanType, disk_files
from .progress import say

THIS_ONE = "this one"
GUIDANCE = {"text and pose": 3, "text": 2, "none": 1}
LARGEST_TILE = 4096  # of core's tiled decode


def find(name: str) -> Path | None:
    """Path of a catalogue file id, or of a user's own file in diffusion_models."""
    if name in catalogue().files:
        return build.ComfyPlaces().find(catalogue().files[name])
    path = folder_paths.get_full_path("diffusion_models", name)
    return Path(path) if path else None


class SteadyDancerVRAMPlanner(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        options = ["auto", *plannable(), *disk_files()]
        return io.Schema(
            node_id="SteadyDancerVRAMPlanner",
            display_name="VRAM Budget Planner",
            category=CATEGORY,
            description="Says before the run whether it fits the GPU, what to change if not, and how long it takes.",
            search_aliases=["memory", "oom", "fits", "vram", "budget", "gpu"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=options,
                    default="auto",
                    tooltip="Which weights. auto takes the variant of SteadyDancer that is done first on the card.",
                ),
                io.Int.Input("width", default=832, min=16, max=8192, step=16, tooltip="Width of the video in pixels."),
                io.Int.Input(
                    "height", default=480, min=16, max=8192, step=16, tooltip="Height of the video in pixels."
                ),
                io.Int.Input(
                    "frames", default=81, min=1, max=8193, step=4, tooltip="Frames, one more than a multiple of 4."
                ),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Steps of the sampler, for the time."),
                io.Combo.Input(
                    "guidance",
                    options=list(GUIDANCE),
                    default="text and pose",
                    tooltip="What guides the sampling: each kind is another evaluation in a step. none is for cfg 1.",
                ),
                io.Boolean.Input(
                    "step_distill", default=False, tooltip="Whether the loader adds the 4-step LoRA (0.7 GB)."
                ),
                io.Combo.Input(
                    "gpu",
                    options=[THIS_ONE, *(card.name for card in gpus.cards())],
                    default=THIS_ONE,
                    tooltip="this one is the GPU of this computer. The others are for choosing what to buy or rent: "
                    "their plan is not for the loader.",
                ),
                io.Float.Input(
                    "reserve",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="GPU memory in GB to leave free for other programs.",
                ),
            ],
            outputs=[
                PlanType.Output("plan", display_name="plan"),
                io.Combo.Output("variant", display_name="variant", options=options),
                io.Boolean.Output("fits", display_name="fits"),
                io.String.Output("report", display_name="report"),
                io.Image.Output("chart", display_name="chart"),
                io.Int.Output("vae_tile", display_name="vae_tile"),
            ],
        )

    @classmethod
    def plan(cls, variant, width, height, frames, steps, guidance, step_distill, gpu, reserve) -> Plan:
        card = present_card() if gpu == THIS_ONE else gpus.card(gpu)
        card = replace(card, free=max(0, card.free - round(reserve * 1e9)))
        lora = step_distill_bytes() if step_distill else 0
        job = job_for(variant, width, height, frames, branches=GUIDANCE[guidance], steps=steps, lora_bytes=lora)
        return plan_job(job, card, find, calibration(), host() if gpu == THIS_ONE else Host())

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """The plan itself: what comes after runs again only when it changes."""
        usual = {entry.id: entry.default for entry in cls.define_schema().inputs}
        # What is linked is not known yet; the card, the files and the calibration show in the plan of a usual job too.
        known = {name: usual[name] if value is None else value for name, value in inputs.items()}
        try:
            return cls.plan(**known).to_json()
        except (ValueError, OSError) as err:
            return str(err)

    @classmethod
    def execute(cls, variant, width, height, frames, steps, guidance, step_distill, gpu, reserve) -> io.NodeOutput:
        plan = cls.plan(variant, width, height, frames, steps, guidance, step_distill, gpu, reserve)
        picture = chart_image(plan)
        tile = plan.vae_tile or min(LARGEST_TILE, 32 * math.ceil(max(width, height) / 32))
        report = "\n".join(table(plan))
        values = (plan.to_json(), plan.variant, plan.fits, report, picture, tile)
        return io.NodeOutput(*values, ui=ui.PreviewImage(picture, cls=cls))


def step_distill_bytes() -> int:
    path = find(STEP_DISTILL)
    return lora_bytes([path]) if path else catalogue().files[STEP_DISTILL].size


def chart_image(plan: Plan) -> torch.Tensor:
    """The chart as IMAGE, [1, height, width, 3] in 0 to 1."""
    from ..budget.chart import draw

    return torch.from_numpy(draw(plan).astype(np.float32) / 255)[None]


def host() -> Host:
    """This computer: half a GB more or less of RAM makes no other plan."""
    ram = int(psutil.virtual_memory().total // 5e8 * 5e8)
    disk = shutil.disk_usage(folder_paths.models_dir).free
    return Host(ram=ram, disk=disk)


class SteadyDancerVRAMReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SteadyDancerVRAMReport",
            display_name="VRAM Report",
            category=CATEGORY,
            description="Compares what the run took in each phase with the plan, and makes the next plan better.",
            search_aliases=["memory", "measure", "peak", "calibration", "vram"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                PlanType.Input("plan", tooltip="The plan that the loader was given."),
                io.AnyType.Input(
                    "after", tooltip="Anything of the finished run, such as its frames: the report waits for it."
                ),
            ],
            outputs=[io.String.Output("report", display_name="report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, plan, after) -> io.NodeOutput:
        meter = meter_of(Plan.from_json(plan))
        lines = meter.lines() or ["Nothing was measured: connect the plan to the loader too, and run it."]
        calibration().add(meter.take())
        report = "\n".join(lines)
        say(cls.hidden.unique_id, report)
        return io.NodeOutput(report, ui=ui.PreviewText(report))
