"""From what a loader node is asked for to ComfyUI objects: choose, fetch, build, place. Every loader node calls `load`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ..base.progress import size
from ..catalog.catalog import ModelFile, Variant, catalogue
from ..catalog.names import STEP_DISTILL
from ..loaders import build, lazy, placement
from ..loaders.download import places
from ..loaders.download.errors import printable
from ..loaders.download.fetch import enough_room, ensure, published_file
from ..loaders.download.listing import Names
from ..loaders.run import PlannedRun, run_of
from ..loaders.turbo import both_experts
from ..machine.card import Card
from ..planning import choose
from ..planning.job import Find
from ..planning.plan import Plan
from . import conversion, folders, this_machine
from .progress import NodeProgress, cancelled, executing, interruptible, say, timed, told
from .sampling import DISTILLED, watch
from .web_server import show, web_server

OUTPUTS = ("diffusion", "text_encoder", "clip_vision", "vae")  # which part of a variant each output of a loader is
KEPT = "What was fetched is kept, and the next run goes on from there."
CLIP_TYPES = {
    "wan2.1": "wan",
    "qwen_image": "qwen_image",
    "lumina2": "lumina2",
}  # what ComfyUI detects → our catalogue's


@dataclass(frozen=True)
class Loaded:
    """`models` has one MODEL, or one for each expert; `variant` is what was chosen."""

    models: list[ModelPatcher]
    clip: lazy.LazyCLIP
    clip_vision: lazy.LazyClipVision
    vae: lazy.LazyVAE
    variant: str


def load(
    kind: str,
    wanted: str,
    plan: Plan | None,
    build_models: Callable[..., list[ModelPatcher]],
    outputs: tuple[str, ...] = OUTPUTS,
    more: tuple[str, ...] = (),
) -> Loaded:
    """What the node that is being executed returns.

    `kind` is the catalogue's kind of loader, `wanted` is auto, a variant or a user's own file, and `build_models` makes
    MODELs from diffusion files and, one argument each, from the files whose ids are `more`. `outputs`: which part of the
    variant each output of the node stands for. Raises ValueError, before anything is fetched, where the plan is for something else, and
    NoRoom where what the prompt takes from the node does not fit on the disk all together.
    """
    node_id, (chosen, line) = executing().node_id, chosen_variant(wanted, plan)
    say(node_id, line)
    if plan is not None:
        require_fit(plan, chosen)
    needed = files_taken(chosen, outputs, more)
    missing = require_room(needed)
    models = build_models(diffusion_files(kind, chosen, missing), *fetch(*more, missing=missing))
    for model in models:
        watch(model, chosen, finder)
        model.set_attachments(DISTILLED, STEP_DISTILL in more)
    run = run_of(plan, this_machine.calibration()) if plan is not None else None
    if run:
        models = [placement.placed(model, run) for model in models]
    variant = catalogue().variants.get(chosen) or companions(kind, models[0])
    show(line, node_id)  # in the place of what the download said last
    return Loaded(models, *encoders(variant, run, missing), chosen)


def chosen_variant(wanted: str, plan: Plan | None) -> tuple[str, str]:
    """What `auto` is, the plan's variant or else the choice for this card, and a line that says so."""
    if wanted != "auto":
        return wanted, f"Model: {wanted}"
    if plan is not None:
        return as_plan(plan).variant, f"{plan.variant}, as planned"
    found = choice("steadydancer")
    return found.variant, found.line


def choice(family: str, card: Card | None = None, preference: str = "auto") -> choose.Choice:
    """The choice of a family for this card, or another in its place.

    Raises ValueError where GPU_MEMORY_MODE asks for what cannot be.
    """
    card = card or this_machine.present_card()
    found = choose.choose(family, card, finder(), preference=preference, host=this_machine.host())
    if found.refusal:
        raise ValueError(found.refusal)
    return found


def finder() -> Find:
    """Path of a catalogue file id, or of a user's own file in diffusion_models. Make one for each question."""

    def own(name: str) -> Path | None:
        path = folder_paths.get_full_path("diffusion_models", name)
        return Path(path) if path else None

    return places.finder(build.ComfyPlaces(), own)


def as_plan(plan: object) -> Plan:
    """Raises ValueError for anything else that is connected or written there."""
    if not isinstance(plan, Plan):
        raise ValueError("This input is not a plan. Connect the plan output of VRAM Budget Planner.")
    return plan


def require_fit(plan: Plan, chosen: str) -> None:
    """Raises ValueError where the plan that a loader is given does not fit, or is for something else."""
    found, card = as_plan(plan), this_machine.present_card()
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


def fetch(*ids: str, missing: Sequence[ModelFile] = ()) -> list[Path]:
    """The paths of catalogue files, fetched with progress and Cancel on the node that is being executed. What nobody
    publishes is made of the file that is fetched for it. `missing` are all files that the prompt has to fetch, to be
    counted: "2 of 4"."""
    return fetch_files([catalogue().files[id] for id in ids], missing)


def fetch_files(files: list[ModelFile], missing: Sequence[ModelFile] = ()) -> list[Path]:
    """The same for files that the catalogue may not have."""
    node_id, where = executing().node_id, build.ComfyPlaces()
    published = [published_file(file, where) for file in files]
    paths = []
    with told(), interruptible(KEPT):
        absent = enough_room(published, where, cancelled)
        counted = list(missing) if absent.keys() <= set(missing) else list(absent)
        for file in published:
            name = printable(file.name or file.id)
            if file in absent:
                name = f"{counted.index(file) + 1} of {len(counted)}: {name}" if len(counted) > 1 else name
                say(node_id, f"Downloading {name}{f', {size(absent[file])}' if absent[file] else ''}")
            progress = partial(NodeProgress(node_id, "B"), doing=name)
            paths.append(ensure(file, where, progress, cancelled, say=partial(say, node_id)))
    return [made(file, path, where) for file, path in zip(files, paths, strict=True)]


def made(file: ModelFile, path: Path, where: places.Places) -> Path:
    """The file itself, converted first where `path` is what it is made of."""
    if published_file(file, where) is file:
        return path
    return conversion.make(path, path.with_name(file.name), file.precision).path


def files_taken(chosen: str, outputs: tuple[str, ...], more: tuple[str, ...]) -> list[ModelFile]:
    """The files of a variant's model and of every output that the running prompt takes, in the order of their use."""
    variant, server = catalogue().variants.get(chosen), web_server()
    if variant is None:
        return []
    context = executing()
    running, _ = server.prompt_queue.get_current_queue_volatile() if server else ([], None)
    prompt: dict[str, dict] = next((item[2] for item in running if item[1] == context.prompt_id), {})
    inputs = [value for node in prompt.values() for value in node["inputs"].values()]
    taken = [part for slot, part in enumerate(outputs) if [context.node_id, slot] in inputs]
    ids = dict.fromkeys([*variant.diffusion, *more, *(file for part in taken for file in getattr(variant, part))])
    return [catalogue().files[id] for id in ids]


def require_room(files: list[ModelFile]) -> list[ModelFile]:
    """Those of the files, or of what they are made of, that have to be fetched. Raises NoRoom where all of them together do
    not fit on the disk."""
    with interruptible():
        where = build.ComfyPlaces()
        published = [published_file(file, where) for file in files]
        absent = enough_room(list(dict.fromkeys([*files, *published])), where, cancelled)
    return [file for file in published if file in absent]


def diffusion_files(kind: str, chosen: str, missing: Sequence[ModelFile]) -> list[Path]:
    """The files of a variant, fetched if need be, or a user's own file, with its other expert where it has one."""
    if chosen in catalogue().variants:
        return fetch(*catalogue().variants[chosen].diffusion, missing=missing)
    path = build.own_file("diffusion_models", chosen)
    return both_experts(path) if kind == "turbo" else [path]


def companions(kind: str, model: ModelPatcher) -> Variant:
    """The catalogue's variant whose encoders and VAE go with a user's own file.

    SteadyDancer's and TurboDiffusion's are always the same; else it is what ComfyUI takes the model for.
    """
    book = catalogue()
    if kind == "steadydancer":
        return book.variants[book.families["steadydancer"].default]
    variants = book.variants_for(kind)
    if kind == "turbo":
        return variants[0]
    found = model.model.model_config.unet_config.get("image_model")
    clip_type = CLIP_TYPES.get(found)
    matching = [variant for variant in variants if book.families[variant.family].clip_type == clip_type]
    if not matching:
        raise ValueError(
            f"The file is a model of the kind '{found}', whose encoders and VAE are not in the catalogue. "
            "Load it with Load SteadyDancer and connect encoders and VAE of your own."
        )
    return max(matching, key=lambda variant: len(variant.clip_vision))


def encoders(
    variant: Variant, run: PlannedRun | None = None, missing: Sequence[ModelFile] = ()
) -> tuple[lazy.LazyCLIP, lazy.LazyClipVision, lazy.LazyVAE]:
    """A variant's CLIP, CLIP_VISION and VAE, none of them fetched or loaded before it is used."""
    clip_type = catalogue().families[variant.family].clip_type
    options = placement.on_cpu() if run and run.plan.text_encoder == "cpu" else {}

    @told()
    def load_clip() -> CLIP:
        return build.load_clip(fetch(*variant.text_encoder, missing=missing), clip_type, options)

    @told()
    def load_clip_vision() -> ClipVisionModel:
        return build.load_clip_vision(image_encoder(variant, missing))

    @told()
    def load_vae() -> VAE:
        return build.load_vae(fetch(*variant.vae, missing=missing))

    return (
        lazy.LazyCLIP(load_clip, run, told_phase),
        lazy.LazyClipVision(load_clip_vision, run, told_phase),
        lazy.LazyVAE(load_vae, run, told_phase),
    )


def told_phase(phase: str) -> AbstractContextManager[None]:
    """What a node says during a phase: decoding alone takes long, and without a counter."""
    return timed("Decoding") if phase == "vae_decode" else told()


def image_encoder(variant: Variant, missing: Sequence[ModelFile]) -> list[Path]:
    """The files of a variant's image encoder, fetched if need be. Raises ValueError where the variant has none."""
    if not variant.clip_vision:
        raise ValueError(f"{variant.title} has no image encoder. Leave CLIP_VISION of the loader unconnected.")
    return fetch(*variant.clip_vision, missing=missing)


def fingerprint(wanted: str, *rest: Any) -> list:
    """A user's own file is loaded again when it changes; a variant when `auto` comes to mean another."""
    path = folder_paths.get_full_path("diffusion_models", wanted or "")
    if path:
        stat = Path(path).stat()
        return [wanted, stat.st_size, stat.st_mtime_ns, *rest]
    try:
        return [choice("steadydancer").variant if wanted == "auto" else wanted, *rest]
    except ValueError as err:
        return [str(err)]


def own_files() -> list[str]:
    """Diffusion models on disk that are no variant of the catalogue: a user's own, GGUF among them."""
    listed = Names({*folder_paths.get_filename_list("diffusion_models"), *folder_paths.get_filename_list(folders.GGUF)})
    known = {path for file in catalogue().files.values() for pattern in file.patterns for path in listed.find(pattern)}
    return sorted({path for paths in listed.by_name.values() for path in paths} - known)
