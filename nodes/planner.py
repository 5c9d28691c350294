"""Says before a run whether it fits, hands the plan to the loaders, and compares it with what was measured."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..base.reason import reason
from ..catalog.names import STEP_DISTILL
from ..loaders.run import RAN_OUT, run_of
from ..machine import gpus
from ..planning.job import job_for
from ..planning.model_sizes import lora_bytes, plannable
from ..planning.plan import Plan
from ..planning.planner import plan_job
from ..planning.report import summary, table
from ..planning.solve import Host
from ..services import loading, this_machine
from ..services.node import Node
from ..services.progress import executing, say
from .loaders import MODELS, PlanType

THIS_ONE = "this one"
GUIDANCE = {"usual": None, "text and pose": 3, "text": 2, "none": 1}
NO_LORA = "none"
LARGEST_TILE = 4096  # of core's tiled decode
# What stands for an input that is linked, and so not known yet.
USUAL = {
    "variant": "auto", "width": 832, "height": 480, "frames": 81, "steps": 0, "guidance": "usual", "step_distill": False,
    "lora": NO_LORA, "gpu": THIS_ONE, "reserve": 0.0,
}  # fmt: skip
FEW_PER_CENT = 1.1  # a correction up to this is no new plan


class SteadyDancerVRAMPlanner(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        options = ["auto", *plannable(), *loading.own_files()]
        return io.Schema(
            node_id="SteadyDancerVRAMPlanner",
            display_name="VRAM Budget Planner",
            category=MODELS,
            description="Says before the run whether it fits the GPU, what to change if not, and how long it takes.",
            search_aliases=["memory", "oom", "fits", "vram", "budget", "gpu"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=options,
                    default="auto",
                    tooltip="Which weights. auto: what suits the GPU, as Load SteadyDancer and GGUF / fp8 Selector choose it: the most "
                    "accurate variant that is at most 5 % slower than the fastest, or a good one that is here.",
                ),
                io.Int.Input("width", default=832, min=16, max=8192, step=16, tooltip="Width of the video in pixels."),
                io.Int.Input(
                    "height", default=480, min=16, max=8192, step=16, tooltip="Height of the video in pixels."
                ),
                io.Int.Input(
                    "frames",
                    default=81,
                    min=1,
                    max=8193,
                    step=4,
                    tooltip="Frames of one video (batch_size 1), one more than a multiple of 4.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Steps of the sampler, for the time. 0 is what the model usually takes: 40, with the 4-step LoRA 4.",
                ),
                io.Combo.Input(
                    "guidance",
                    options=list(GUIDANCE),
                    default="usual",
                    tooltip="What guides the sampling: each kind is another evaluation in a step. none is for cfg 1. "
                    "usual is text and pose for SteadyDancer, none with the 4-step LoRA.",
                ),
                io.Boolean.Input(
                    "step_distill", default=False, tooltip="Whether the loader adds the 4-step LoRA (0.7 GB)."
                ),
                io.Combo.Input(
                    "lora",
                    display_name="lora (own)",
                    options=[NO_LORA, *folder_paths.get_filename_list("loras")],
                    default=NO_LORA,
                    tooltip="A LoRA of your own that is applied to the model: it takes room too.",
                ),
                io.Combo.Input(
                    "gpu",
                    display_name="GPU",
                    options=[THIS_ONE, *gpus.names()],
                    default=THIS_ONE,
                    tooltip="this one is the GPU of this computer. The others are for choosing what to buy or rent: "
                    "their plan is not for the loader.",
                ),
                io.Float.Input(
                    "reserve",
                    display_name="reserve (GB)",
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
    def plan(
        cls,
        variant: str,
        width: int,
        height: int,
        frames: int,
        steps: int,
        guidance: str,
        step_distill: bool,
        lora: str,
        gpu: str,
        reserve: float,
    ) -> Plan:
        """The plan that the node's inputs ask for. Raises ValueError for what cannot be planned."""
        card = this_machine.present_card() if gpu == THIS_ONE else gpus.card(gpu)
        find = loading.finder()
        card = replace(card, free=max(0, card.free - round(reserve * 1e9)))
        given = {"branches": GUIDANCE[guidance], "steps": steps or None}
        if step_distill and (distilled := find(STEP_DISTILL)):
            given["lora_bytes"] = lora_bytes([distilled])
        job = job_for(variant, width, height, frames, step_distill, **given)
        if lora != NO_LORA:
            own = lora_bytes([Path(folder_paths.get_full_path_or_raise("loras", lora))])
            job = replace(job, lora_bytes=job.lora_bytes + own)
        host = this_machine.host() if gpu == THIS_ONE else Host()
        return plan_job(job, card, find, this_machine.calibration(), host)

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list | str:
        """What the plan decides: what comes after runs again, and the model is loaded again, only when that changes.

        A file that was fetched since, or a correction by a few per cent, does not; a phase that ran out of memory does,
        because it raises its correction by a whole step.
        """
        # What is linked is not known yet; the card and the calibration show in the plan of a usual job too.
        known: dict[str, Any] = {name: USUAL[name] if value is None else value for name, value in inputs.items()}
        try:
            plan = cls.plan(**known)
        except (ValueError, OSError) as err:
            return reason(err)
        steps = [math.ceil(math.log(phase.correction / FEW_PER_CENT, RAN_OUT)) for phase in plan.phases]
        streams = plan.kept < plan.blocks
        settings = [plan.verdict, plan.variant, streams, plan.batched, plan.vae_tile, plan.text_encoder]
        return [str(plan.card), *settings, steps]

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        plan = cls.plan(**inputs)
        say(executing().node_id, summary(plan))
        picture = chart_image(plan)
        tile = plan.vae_tile or min(LARGEST_TILE, 32 * math.ceil(max(plan.job.width, plan.job.height) / 32))
        report = "\n".join(table(plan))
        values = (plan, plan.variant, plan.fits, report, picture, tile)
        return io.NodeOutput(*values, ui=ui.PreviewImage(picture, cls=cls))


def chart_image(plan: Plan) -> torch.Tensor:
    """The chart as IMAGE, [1, height, width, 3] in 0 to 1."""
    from ..planning.chart import draw

    return torch.from_numpy(draw(plan).astype(np.float32) / 255)[None]


class SteadyDancerVRAMReport(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerVRAMReport",
            display_name="VRAM Report",
            category=MODELS,
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
    def execute(cls, plan: Plan, after: Any) -> io.NodeOutput:
        run = run_of(loading.as_plan(plan))
        lines = run.lines() or ["Nothing was measured: connect the plan to the loader too, and run it."]
        this_machine.calibration().add(run.take())
        report = "\n".join(lines)
        say(cls.hidden.unique_id, report)
        return io.NodeOutput(report, ui=ui.PreviewText(report))
