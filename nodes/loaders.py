"""Loaders that fetch what is missing, and a node that only fetches."""

from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..catalog.catalog import ModelFile, catalogue
from ..catalog.names import STEP_DISTILL, files_of, split
from ..planning.plan import Plan
from ..services import loading
from ..services.models import one_model

CATEGORY = "SteadyDancer"
PlanType = io.Custom("STEADYDANCER_PLAN")  # planning/plan.Plan
PLAN_INPUT = PlanType.Input(
    "plan",
    optional=True,
    tooltip="From VRAM Budget Planner: how much stays on the GPU. Without it, ComfyUI decides by its own estimate.",
)


def variants(kind: str) -> list[str]:
    """The ids of the variants that a kind of loader loads."""
    return [variant.id for variant in catalogue().variants_for(kind)]


class SteadyDancerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        options = ["auto", *variants("steadydancer"), *loading.own_files()]
        return io.Schema(
            node_id="SteadyDancerLoader",
            display_name="Load SteadyDancer (auto-download)",
            category=CATEGORY,
            description="Loads SteadyDancer with its encoders and VAE, and fetches what is missing.",
            search_aliases=["download", "model", "checkpoint", "steadydancer"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=options,
                    default="auto",
                    tooltip="Which weights. auto is the plan's, else STEADYDANCER_VARIANT, else what suits this GPU; a good file "
                    "that is here wins over a download. What is not here is downloaded. "
                    "Your own files in diffusion_models are listed last.",
                ),
                io.Boolean.Input(
                    "step_distill",
                    default=False,
                    tooltip="Add the 4-step LoRA (0.7 GB). Then use 4 steps and cfg 1: about twenty times faster.",
                ),
                PLAN_INPUT,
            ],
            outputs=[
                io.Model.Output(),
                io.Clip.Output(),
                io.ClipVision.Output(),
                io.Vae.Output(),
                io.Combo.Output("variant", display_name="variant", options=options),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, variant: str, step_distill: bool, plan: Any = "") -> list:
        if variant == "auto" and plan is None:  # linked, so auto is the plan's, whose own fingerprint counts
            return [variant, step_distill]
        return loading.fingerprint(variant, step_distill)

    @classmethod
    def execute(cls, variant: str, step_distill: bool, plan: Plan | None = None) -> io.NodeOutput:
        more = (STEP_DISTILL,) if step_distill else ()
        loaded = loading.load("steadydancer", variant, plan, partial(one_model, step_distill=step_distill), more=more)
        return io.NodeOutput(loaded.models[0], loaded.clip, loaded.clip_vision, loaded.vae, loaded.variant)


class SteadyDancerCatalogLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerCatalogLoader",
            display_name="Load from Catalogue (auto-download)",
            category=CATEGORY,
            description="Loads another model of the catalogue with its encoders and VAE, and fetches what is missing.",
            search_aliases=["download", "wan", "vace", "scail", "z-image", "qwen"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=[*variants("core"), *loading.own_files()],
                    default="wan2.1/t2v-1.3b",
                    tooltip="Family and variant. What is not here is downloaded when the node runs. "
                    "Your own files in diffusion_models, GGUF too, are listed last.",
                ),
                PLAN_INPUT,
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.ClipVision.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, variant: str, plan: Any = None) -> list:
        return loading.fingerprint(variant)

    @classmethod
    def execute(cls, variant: str, plan: Plan | None = None) -> io.NodeOutput:
        loaded = loading.load("core", variant, plan, one_model)
        return io.NodeOutput(loaded.models[0], loaded.clip, loaded.clip_vision, loaded.vae)


class SteadyDancerDownload(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerDownload",
            display_name="Download Models",
            category=CATEGORY,
            description="Fetches models without loading them: a whole prompt by itself, to prepare a machine.",
            search_aliases=["fetch", "prefetch", "models"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "names",
                    default="steadydancer",
                    multiline=True,
                    tooltip="Profiles (steadydancer, steadydancer-turbo, dwpose, wan-t2v, …), variants "
                    "(steadydancer/Q4_K_M) or files of the catalogue, separated by commas or lines.",
                ),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def validate_inputs(cls, names: str | None) -> bool | str:
        if names is None:  # linked: known only when it runs
            return True
        try:
            return True if files_of(split(names), default) else "Name a profile or variant, such as steadydancer."
        except ValueError as err:
            return str(err)

    @classmethod
    def fingerprint_inputs(cls, names: str | None) -> list:
        """Runs again when one of the files was taken away."""
        try:
            find = loading.finder()
            return [names, [file.id for file in named(names or "") if not find(file.id)]]
        except ValueError as err:
            return [str(err)]

    @classmethod
    def execute(cls, names: str) -> io.NodeOutput:
        files = named(names)
        paths = loading.fetch(*(file.id for file in files))
        sizes = [path.stat().st_size if path.is_file() else tree_size(path) for path in paths]
        lines = [f"{size / 1e9:6.2f} GB  {path}" for path, size in zip(paths, sizes)]
        report = "\n".join([*lines, f"{sum(sizes) / 1e9:6.2f} GB  in {len(paths)} files, all here and checked"])
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def named(names: str) -> list[ModelFile]:
    """The files that a text names; `auto` in a profile is the choice for this card."""
    return files_of(split(names), lambda family: loading.choice(family).variant)


def default(family: str) -> str:
    """For looking whether names are right, which must not look at the disk."""
    return catalogue().families[family].default


def tree_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
