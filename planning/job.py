"""Jobs: what a model's kind usually takes, what cannot be, and the plan of one variant for one of them."""

from collections.abc import Callable
from pathlib import Path

from ..catalog.catalog import catalogue
from ..catalog.names import STEP_DISTILL
from ..formats.model_file import parts
from ..machine.card import Card
from .estimate import Parts
from .model_sizes import kind_of, model_of
from .plan import Job, Plan
from .solve import Host, Rules, solve

Find = Callable[[str], Path | None]


def job_for(
    variant: str, width: int, height: int, frames: int, step_distill: bool = False, **given: int | bool | None
) -> Job:
    """A job with what the model's kind usually takes where `given` does not say; `step_distill` is the 4-step LoRA."""
    kind = kind_of("steadydancer/fp8" if variant == "auto" else variant)
    usual = {"branches": kind["branches"], "steps": kind["steps"], "pose": kind["pose"]}
    if step_distill:
        usual |= {"branches": 1, "steps": 4, "lora_bytes": catalogue().files[STEP_DISTILL].size}
    return Job(variant, width, height, frames, **{**usual, **{k: v for k, v in given.items() if v is not None}})


def usual_job(variant: str) -> Job:
    """What is made with a model where nobody says: 832×480 with 81 frames, or a picture of a megapixel."""
    return job_for(variant, **kind_of(variant)["usual"])


def check(job: Job) -> None:
    """Raises ValueError for a size or a count of frames that the network cannot make."""
    if job.width % 16 or job.height % 16 or min(job.width, job.height) < 16:
        raise ValueError(f"{job.width}×{job.height} cannot be made: width and height must be multiples of 16.")
    if job.frames < 1 or job.frames % 4 != 1:
        raise ValueError(f"{job.frames} frames cannot be made: take one more than a multiple of 4, such as 81.")


def plan_variant(
    job: Job,
    card: Card,
    paths: list[Path],
    corrections: dict[str, float],
    host: Host,
    rules: Rules,
    explain: bool = True,
) -> Plan:
    """The plan of the job's own variant: by the headers of `paths` where there are some, else by the catalogue."""
    return solve(job, card, model_of(job.variant, paths), parts_of(job.variant), corrections, host, rules, explain)


def files(variant: str, find: Find) -> list[Path]:
    """The variant's files if all of them are here; of two experts, which take turns, the first."""
    known = catalogue().variants.get(variant)
    if known is None:
        path = find(variant)
        if path is None:
            raise ValueError(f"There is no variant and no file '{variant}'. `cli.py list` shows what there is.")
        return parts(path)
    paths = [path for path in map(find, known.diffusion) if path]
    if len(paths) < len(known.diffusion) or any(path.suffix not in (".safetensors", ".gguf") for path in paths):
        return []
    return paths[:1] if known.experts == 2 else paths


def parts_of(variant: str) -> Parts:
    """Bytes of the encoders and the VAE that go with a variant."""
    book = catalogue()
    entry = book.variants.get(variant) or book.variants[book.families["steadydancer"].default]
    size = lambda ids: sum(book.files[id].size for id in ids)  # noqa: E731
    return Parts(size(entry.text_encoder), size(entry.clip_vision), size(entry.vae))


def download(variant: str, find: Find) -> int:
    """Bytes of the variant's files that are not here yet, and of those that they are made of."""
    book = catalogue()
    entry = book.variants.get(variant)
    missing = [book.files[file] for file in entry.files if not find(file)] if entry else []
    sources = [book.files[file.made_from] for file in missing if file.made_from and not find(file.made_from)]
    return sum(file.size for file in (*missing, *sources))
