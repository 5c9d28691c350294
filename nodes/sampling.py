"""Guidance, schedule and solver for core's SamplerCustomAdvanced."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..dancer.guidance import SteadyDancerGuider as Guider
from ..dancer.sampling import flow_unipc_sampler, steadydancer_sigmas
from ..services.node import Node
from ..services.progress import executing, say
from ..services.sampling import against_distillation, watch


class SteadyDancerGuider(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerGuider",
            display_name="SteadyDancer Guider (text + pose)",
            category="SteadyDancer",
            description="Guides by text in every step and by pose in the early middle, as published.",
            search_aliases=["cfg", "pose guidance"],
            inputs=[
                io.Model.Input("model", tooltip="A SteadyDancer model."),
                io.Conditioning.Input("positive", tooltip="positive of SteadyDancer Conditioning."),
                io.Conditioning.Input("negative", tooltip="negative of SteadyDancer Conditioning."),
                io.Conditioning.Input(
                    "pose_negative",
                    optional=True,
                    tooltip="pose_negative of SteadyDancer Conditioning. Without it there is no pose guidance.",
                ),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Text guidance. 1 turns it off and halves the time, as step-distilled LoRAs want it.",
                ),
                io.Float.Input(
                    "pose_cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Pose guidance: added on top, so 0 turns it off and 1 is the published strength.",
                ),
                io.Float.Input(
                    "start",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the steps (0.1 = 10 %) after which pose guidance begins.",
                    advanced=True,
                ),
                io.Float.Input(
                    "end",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the steps (0.4 = 40 %) before which pose guidance ends.",
                    advanced=True,
                ),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: list,
        negative: list,
        cfg: float,
        pose_cfg: float,
        start: float,
        end: float,
        pose_negative: list | None = None,
    ) -> io.NodeOutput:
        if pose_negative is not None and not hasattr(model.model.diffusion_model, "patch_embedding_fuse"):
            raise ValueError(
                "Pose guidance needs a SteadyDancer model, and the connected model is another one. "
                "Load a SteadyDancer file, or leave pose_negative open."
            )
        model = model.clone()
        watch(model)
        if against := against_distillation(model, cfg):
            say(executing().node_id, against)
        guider = Guider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        guider.set_pose_guidance(pose_negative, pose_cfg, start, end)
        return io.NodeOutput(guider)


class SteadyDancerSchedule(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerSchedule",
            display_name="SteadyDancer Schedule",
            category="SteadyDancer",
            description="The published noise levels.",
            search_aliases=["scheduler", "sigmas", "shift"],
            inputs=[
                io.Int.Input(
                    "steps", default=40, min=1, max=1000, tooltip="Steps. Published: 40. With a step LoRA: 4."
                ),
                io.Float.Input(
                    "shift",
                    default=5.0,
                    min=0.01,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How long the run stays with strong noise. Published: 5, and 3 at 832×480.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, shift: float) -> io.NodeOutput:
        return io.NodeOutput(steadydancer_sigmas(steps, shift))


class SteadyDancerFlowUniPC(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerFlowUniPC",
            display_name="Flow UniPC Sampler",
            category="SteadyDancer",
            description="The published solver: UniPC of order 2 on the flow path, one evaluation per step. Core's uni_pc "
            "follows another path.",
            search_aliases=["unipc", "sampler"],
            inputs=[],
            outputs=[io.Sampler.Output()],  # type: ignore[attr-defined]  # checkers see comfy.samplers.Sampler there
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(flow_unipc_sampler())
