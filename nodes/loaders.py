"""Loaders that fetch what is missing, and a node that only fetches."""

from functools import partial
from pathlib import Path, PurePath

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context

from ..catalog.catalog import Variant, catalogue
from ..catalog.names import STEP_DISTILL, files_of, split
from ..loaders import build, placement
from ..loaders.download import ensure_all
from ..loaders.errors import DownloadCancelled
from ..loaders.meter import Meter, meter_of
from ..planning.plan import Plan
from ..services.progress import NodeProgress, cancelled, say, stop
from ..services.this_machine import calibration, present_card
from .selector import choose

CATEGORY = "SteadyDancer"
FAMILY = "steadydancer"
PlanType = io.Custom("STEADYDANCER_PLAN")
PLAN_INPUT = PlanType.Input(
    "plan",
    optional=True,
    tooltip="From VRAM Budget Planner: how much stays on the GPU. Without it, ComfyUI decides by its own estimate.",
)


def fetch(*ids: str) -> list[Path]:
    """The paths of catalogue files, fetched with progress and Cancel on the node that is being executed."""
    node_id = get_executing_context().node_id
    files = [catalogue().files[id] for id in ids]
    try:
        progress = NodeProgress(node_id, "B")
        return ensure_all(files, build.ComfyPlaces(), progress, cancelled, say=partial(say, node_id))
    except DownloadCancelled:
        stop()
        raise


def parts(variant: Variant, meter: Meter | None = None) -> tuple:
    """A variant's CLIP, CLIP_VISION and VAE, none of them fetched or loaded before it is used."""
    clip_type = catalogue().families[variant.family].clip_type
    options = placement.on_cpu() if meter and meter.plan.text_encoder == "cpu" else {}
    return (
        build.LazyCLIP(lambda: build.load_clip(fetch(*variant.text_encoder), clip_type, options), meter),
        build.LazyClipVision(lambda: build.load_clip_vision(image_encoder(variant)), meter),
        build.LazyVAE(lambda: build.load_vae(fetch(*variant.vae)), meter),
    )


def accepted(plan: str | None, chosen: str) -> Meter | None:
    """The meter of the plan that a loader is given; None without a plan.

    Raises ValueError where the job does not fit, or where the plan is for something else: before anything is fetched.
    """
    if plan is None:
        return None
    found = Plan.from_json(plan)
    card = present_card()
    if found.card.name != card.name:
        raise ValueError(
            f"The plan is for {found.card.name}, and this is {card.name}. Set gpu of VRAM Budget Planner to 'this one'."
        )
    if found.variant != chosen:
        raise ValueError(
            f"The plan is for {found.variant}, and {chosen} is to be loaded. "
            "Connect the planner's variant output to the loader."
        )
    if not found.fits:
        raise ValueError(" ".join(found.advice))
    meter = meter_of(found)
    meter.calibration = calibration()
    return meter


def with_plan(model: ModelPatcher, meter: Meter | None) -> ModelPatcher:
    """The MODEL as its plan says; as it is without one."""
    return placement.placed(model, meter.plan, meter) if meter else model


def companions(model: ModelPatcher) -> Variant:
    """The catalogue's variant whose encoders and VAE go with a user's own file, by what ComfyUI takes the model for."""
    kind = model.model.model_config.unet_config.get("image_model")
    variants = catalogue().variants_for("core")
    clip_type = {"wan2.1": "wan", "qwen_image": "qwen_image", "lumina2": "lumina2"}.get(kind)
    families = catalogue().families
    matching = [variant for variant in variants if families[variant.family].clip_type == clip_type]
    if not matching:
        raise ValueError(
            f"The file is a model of the kind '{kind}', whose encoders and VAE are not in the catalogue. "
            "Load it with Load SteadyDancer and connect encoders and VAE of your own."
        )
    return max(matching, key=lambda variant: len(variant.clip_vision))


def image_encoder(variant: Variant) -> list[Path]:
    if not variant.clip_vision:
        raise ValueError(f"{variant.title} has no image encoder. Leave CLIP_VISION of the loader unconnected.")
    return fetch(*variant.clip_vision)


def disk_files() -> list[str]:
    """Diffusion models on disk that are no variant of the catalogue: a user's own, GGUF among them."""
    known = [pattern for file in catalogue().files.values() for pattern in file.patterns]
    names = set(folder_paths.get_filename_list("diffusion_models"))
    for folder in folder_paths.get_folder_paths("diffusion_models"):
        if Path(folder).is_dir():
            names.update(name for name in folder_paths.recursive_search(folder)[0] if name.lower().endswith(".gguf"))
    return sorted(name for name in names if not any(map(PurePath(name).match, known)))


def fingerprint(variant: str, *rest) -> list:
    """A user's own file is loaded again when it changes; a variant when `auto` comes to mean another."""
    path = folder_paths.get_full_path("diffusion_models", variant or "")
    if path:
        stat = Path(path).stat()
        return [variant, stat.st_size, stat.st_mtime_ns, *rest]
    try:
        return [choose(FAMILY, rather_here=True).variant if variant == "auto" else variant, *rest]
    except ValueError as err:
        return [str(err)]


def diffusion_files(chosen: str) -> list[Path]:
    """The files of a variant, fetched if need be, or a user's own file."""
    if chosen in catalogue().variants:
        return fetch(*catalogue().variants[chosen].diffusion)
    return [Path(folder_paths.get_full_path_or_raise("diffusion_models", chosen))]


class SteadyDancerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        variants = [variant.id for variant in catalogue().variants_for("steadydancer")]
        options = ["auto", *variants, *disk_files()]
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
                    tooltip="Which weights. auto is the plan's, else STEADYDANCER_VARIANT, else what is here and suits "
                    "this GPU, else what GGUF / fp8 Selector would choose. "
                    "What is not here is downloaded. Your own files in diffusion_models are listed last.",
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
    def fingerprint_inputs(cls, variant, step_distill, plan=""):
        if variant == "auto" and plan is None:  # linked, so auto is the plan's, whose own fingerprint counts
            return [variant, step_distill]
        return fingerprint(variant, step_distill)

    @classmethod
    def execute(cls, variant, step_distill, plan=None) -> io.NodeOutput:
        chosen = variant
        if variant == "auto" and plan is not None:
            chosen = Plan.from_json(plan).variant
            say(cls.hidden.unique_id, f"{chosen}: the plan's")
        elif variant == "auto":
            choice = choose(FAMILY, rather_here=True)
            chosen = choice.variant
            say(cls.hidden.unique_id, f"{chosen}: {choice.reason}")
        meter = accepted(plan, chosen)
        book = catalogue()
        model = build.load_diffusion(diffusion_files(chosen))
        if step_distill:
            model = build.with_lora(model, fetch(STEP_DISTILL)[0])
        listed = book.variants.get(chosen, book.variants["steadydancer/fp8"])
        return io.NodeOutput(with_plan(model, meter), *parts(listed, meter), chosen)


class SteadyDancerCatalogLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SteadyDancerCatalogLoader",
            display_name="Load from Catalogue (auto-download)",
            category=CATEGORY,
            description="Loads another model of the catalogue with its encoders and VAE, and fetches what is missing.",
            search_aliases=["download", "wan", "vace", "scail", "z-image", "qwen"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=[*(variant.id for variant in catalogue().variants_for("core")), *disk_files()],
                    default="wan2.1/t2v-1.3b",
                    tooltip="Family and variant. What is not here is downloaded when the node runs. "
                    "Your own files in diffusion_models, GGUF too, are listed last.",
                ),
                PLAN_INPUT,
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.ClipVision.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, variant, plan=None):
        return fingerprint(variant)

    @classmethod
    def execute(cls, variant, plan=None) -> io.NodeOutput:
        meter = accepted(plan, variant)
        model = build.load_diffusion(diffusion_files(variant))
        found = parts(catalogue().variants.get(variant) or companions(model), meter)
        return io.NodeOutput(with_plan(model, meter), *found)


class SteadyDancerDownload(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def validate_inputs(cls, names):
        if names is None:  # linked: known only when it runs
            return True
        try:
            return True if files_of(split(names)) else "Name a profile or variant, such as steadydancer."
        except ValueError as err:
            return str(err)

    @classmethod
    def fingerprint_inputs(cls, names):
        """Runs again when one of the files was taken away."""
        try:
            places = build.ComfyPlaces()
            return [names, [file.id for file in files_of(split(names or "")) if not places.find(file)]]
        except ValueError as err:
            return [str(err)]

    @classmethod
    def execute(cls, names) -> io.NodeOutput:
        files = files_of(split(names))
        paths = fetch(*(file.id for file in files))
        sizes = [path.stat().st_size if path.is_file() else tree_size(path) for path in paths]
        lines = [f"{size / 1e9:6.2f} GB  {path}" for path, size in zip(paths, sizes)]
        report = "\n".join([*lines, f"{sum(sizes) / 1e9:6.2f} GB  in {len(paths)} files, all here and checked"])
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def tree_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
