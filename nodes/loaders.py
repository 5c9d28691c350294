"""Loaders that fetch what is missing, and a node that only fetches."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..catalog.catalog import ModelFile, catalogue
from ..catalog.names import STEP_DISTILL, files_of, split
from ..loaders import build
from ..loaders.download import workflow as flow
from ..loaders.download.errors import printable
from ..loaders.download.places import bytes_of
from ..planning.plan import Plan
from ..services import loading
from ..services.models import one_model
from ..services.node import Node

CATEGORY, MODELS = "SteadyDancer", "SteadyDancer/models"
PlanType = io.Custom("STEADYDANCER_PLAN")  # planning/plan.Plan
PLAN_INPUT = PlanType.Input(
    "plan",
    optional=True,
    tooltip="From VRAM Budget Planner: how much stays on the GPU. Without it, ComfyUI decides by its own estimate.",
)


def variants(kind: str) -> list[str]:
    """The ids of the variants that a kind of loader loads."""
    return [variant.id for variant in catalogue().variants_for(kind)]


class SteadyDancerLoader(Node):
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
                io.Float.Input(
                    "step_distill_strength",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the 4-step LoRA. 1 is what it was made for; ComfyUI's SCAIL-2 template uses 0.8 with "
                    "euler and 6 steps.",
                    advanced=True,
                ),
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
    def fingerprint_inputs(
        cls, variant: str, step_distill: bool, plan: Any = "", step_distill_strength: float = 1.0
    ) -> list:
        if variant == "auto" and plan is None:  # linked, so auto is the plan's, whose own fingerprint counts
            return [variant, step_distill, step_distill_strength]
        return loading.fingerprint(variant, step_distill, step_distill_strength)

    @classmethod
    def execute(
        cls, variant: str, step_distill: bool, plan: Plan | None = None, step_distill_strength: float = 1.0
    ) -> io.NodeOutput:
        more = (STEP_DISTILL,) if step_distill else ()
        build_model = partial(one_model, strength=step_distill_strength)
        loaded = loading.load("steadydancer", variant, plan, build_model, more=more)
        return io.NodeOutput(loaded.models[0], loaded.clip, loaded.clip_vision, loaded.vae, loaded.variant)


class SteadyDancerCatalogLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerCatalogLoader",
            display_name="Load from Catalogue (auto-download)",
            category=MODELS,
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


class SteadyDancerDownload(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerDownload",
            display_name="Download Models",
            category=MODELS,
            description="Fetches models without loading them: what you name, or what a workflow needs.",
            search_aliases=["fetch", "prefetch", "models", "missing models", "template"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "names",
                    default="steadydancer",
                    multiline=True,
                    tooltip="Profiles (steadydancer, steadydancer-turbo, dwpose, wan-t2v, …), variants "
                    "(steadydancer/Q4_K_M) or files of the catalogue, separated by commas or lines.",
                ),
                io.String.Input(
                    "workflow",
                    default="",
                    optional=True,
                    tooltip="Fetch what a workflow names, too: this for the one that this node is in, the name of a template "
                    "(video_wan2_2_14B_i2v), or a workflow that you saved (my dance.json).",
                ),
            ],
            outputs=[io.String.Output(display_name="report")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, names: str | None, workflow: str | None = "") -> bool | str:
        if names is None or workflow is None:  # linked: known only when it runs
            return True
        try:
            if files_of(split(names), default) or workflow.strip():
                return True
            return "Name a profile or variant, such as steadydancer, or a workflow."
        except ValueError as err:
            return str(err)

    @classmethod
    def fingerprint_inputs(cls, names: str | None, workflow: str | None = "") -> list | float:
        """Runs again when one of the files was taken away; always where a workflow says what they are."""
        if workflow != "":
            return float("nan")
        try:
            find = loading.finder()
            return [names, [file.id for file in named(names or "") if not find(file.id)]]
        except ValueError as err:
            return [str(err)]

    @classmethod
    def execute(cls, names: str, workflow: str = "") -> io.NodeOutput:
        needed = flow.Named()
        if workflow.strip():
            needed = flow.named(cls.graph(workflow.strip()), automatic)
        files = list({flow.place(file): file for file in (*needed.files, *named(names))}.values())
        paths = loading.fetch_files(files)
        sizes = [bytes_of(path) for path in paths]
        lines = [f"{size / 1e9:6.2f} GB  {path}" for path, size in zip(paths, sizes)]
        lines.append(f"{sum(sizes) / 1e9:6.2f} GB  in {len(paths)} files, all here and checked")
        lines += [f"not needed: {name}: only muted or bypassed nodes name it" for name in needed.off]
        left = flow.still_left(needed.left, build.ComfyPlaces())
        if left:
            why = " ".join(f"{printable(entry.name)} {entry.why}." for entry in left)
            raise ValueError(f"{len(paths)} files are here. Not fetched: {why}")
        report = "\n".join(lines)
        return io.NodeOutput(report, ui=ui.PreviewText(report))

    @classmethod
    def graph(cls, name: str) -> dict:
        """The workflow of a name: `this`, a saved one, or a template."""
        if name == "this":
            return (cls.hidden.extra_pnginfo or {}).get("workflow") or cls.hidden.prompt
        return flow.read(saved_workflow(name) or flow.template(name))


def saved_workflow(name: str) -> Path | None:
    """A workflow in ComfyUI's user folder, if there is one of that name."""
    saved = Path(folder_paths.get_user_directory(), "default", "workflows")
    path = Path(os.path.abspath(saved / (name if name.endswith(".json") else f"{name}.json")))
    return path if path.is_relative_to(saved.absolute()) and path.is_file() else None


def named(names: str) -> list[ModelFile]:
    """The files that a text names."""
    return files_of(split(names), automatic)


def automatic(family: str) -> str:
    """What `auto` in a profile or a workflow means: the choice for this card."""
    return loading.choice(family).variant


def default(family: str) -> str:
    """For looking whether names are right, which must not look at the disk."""
    return catalogue().families[family].default
