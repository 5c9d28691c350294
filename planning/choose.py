"""Which variant of a family to take on a card. Everything that says `auto` asks here.

The rule: of the variants that fit the usual job, those are near that the planner's arithmetic makes at most 5 % slower than
the fastest. The most accurate of them is chosen; where two are equally accurate, the smaller download. A variant whose file
is on the disk wins over a download if it has at most 10 % error and is at most 15 % slower than the fastest.
What nobody publishes is made here, and auto takes it only where the card multiplies it fast, and where it or the file that it
is made of is here: else the reason says what it would bring, and what it costs.
It is chosen for the usual job (832×480, 81 frames) whatever the job is: a file of 16 GB is kept for many videos, weights that
wait in RAM cost a few per cent at any size, and so the loader, which knows no size, and the planner name the same file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..base.toml import read_toml
from ..catalog.catalog import ModelFile, Variant, catalogue
from ..machine.card import Card
from .estimate import multiplies_convrot
from .job import Find, plan_variant, usual_job
from .plan import Job, Plan
from .rules import forced, named_variant, preferred, reserved
from .solve import Host, Rules

USUAL_RAM = 32 << 30  # assumed where the computer is not known
LAST_RESORT, ANY = 15, 100  # per cent of error where nothing better fits; where everything must be on the card
WORTH = 0.1  # of the time: what is said of a file that could be made
PREFERENCES = ("quality", "balanced", "speed", "smallest")


@dataclass(frozen=True)
class Choice:
    """A variant, why, and its plan for the usual job. `refusal` says why nothing is as GPU_MEMORY_MODE wants it, if so."""

    variant: str
    reason: str
    plan: Plan
    refusal: str = ""

    @property
    def line(self) -> str:
        """Variant and reason, as a node says them."""
        return f"{self.variant}: {self.reason.removeprefix(f'{precision(catalogue().variants[self.variant])}: ')}"


@lru_cache(maxsize=1)
def table() -> dict:
    """The numbers of the rule, with their evidence: errors in per cent, preferences, reserves."""
    return read_toml(Path(__file__).parent / "choose.toml")


def families() -> list[str]:
    """The families that offer a choice, ours first: it is what the Selector shows before anybody chose."""
    found = [family.id for family in catalogue().families.values() if family.default]
    return sorted(found, key=lambda family: family != "steadydancer")


def variants(family: str) -> list[Variant]:
    """The family's variants, the most accurate first, of equal ones the smaller download."""
    book = catalogue()
    found = [variant for variant in book.variants.values() if variant.family == family]
    return sorted(found, key=lambda variant: (error(variant), weights(variant)))


def error(variant: Variant) -> float:
    """Per cent against float32."""
    return table()["error"][precision(variant)]


def weights(variant: Variant) -> int:
    """Bytes of a variant's diffusion model."""
    return sum(catalogue().files[file].size for file in variant.diffusion)


def choose(
    family: str,
    card: Card,
    find: Find = lambda file: None,
    job: Job | None = None,
    preference: str = "auto",
    host: Host = Host(),  # noqa: B008 - frozen
) -> Choice:
    """The variant of `family` for `card`. `find` gives the path of a catalogue file id, None where it is not here.

    `job` is only given where the choice for the usual one does not fit it. Raises ValueError for an unknown family and for
    a wrong environment variable.
    """
    if family not in families():
        raise ValueError(f"'{family}' has no variants to choose from. Choose one of {', '.join(families())}.")
    rules, card = forced(), reserved(card)
    # how much of the disk is free is the downloader's business: half a download there would change the choice
    host = replace(host, ram=host.ram or USUAL_RAM, disk=0)

    def here(variant: Variant) -> bool:
        return all(find(file) for file in variant.diffusion)

    plans = plans_of(family, card, host, rules, job)
    book = catalogue()
    if preference == "auto" and (named := named_variant(family)):
        return Choice(named, "STEADYDANCER_VARIANT says so", plans[book.variants[named]])
    wants = table()["preferences"][preferred() if preference == "auto" else preference]
    if not card.sm:
        return without_gpu(family, here, plans)
    possible = [variant for variant in plans if is_offered(variant, card, find)]
    fitting = [variant for variant in possible if plans[variant].fits]
    good: list[Variant] = []
    for limit in (wants["error"], LAST_RESORT, ANY if rules.kept == "all" else 0):
        good = good or [variant for variant in fitting if error(variant) <= limit]
    if not good:
        possible = [variant for variant in possible if error(variant) <= wants["error"]]
        chosen = min([variant for variant in possible if here(variant)] or possible, key=weights)
        reason = too_small(plans[chosen]) + (" It is already here." if here(chosen) else "")
        return Choice(chosen.id, reason, plans[chosen], refusal(family, plans[chosen], rules))
    fastest = min(plans[variant].seconds for variant in good)

    def near(slower: float) -> list[Variant]:
        return [variant for variant in good if plans[variant].seconds <= (1 + slower / 100) * fastest]

    best = min(good, key=weights) if preference == "smallest" else near(wants["slower"])[0]
    kept = [v for v in near(wants["here_slower"]) if here(v) and error(v) <= wants["here_error"]]
    chosen = best if best in kept or not kept else kept[0]
    reason = explained(chosen, plans[chosen])
    if chosen in kept:
        reason += "; it is already here" + ("" if chosen == best else f", {precision(best)} would be the first choice")
    elif source := source_of(chosen):
        reason += f"; it is made here of {source.precision}, once"
    return Choice(chosen.id, reason + offer(card, chosen, plans, wants["error"], find), plans[chosen])


def source_of(variant: Variant) -> ModelFile | None:
    """The file that a variant's model is made of here, where nobody publishes it."""
    diffusion = catalogue().diffusion(variant)
    return catalogue().files.get(diffusion.made_from) if diffusion else None


def is_offered(variant: Variant, card: Card, find: Find) -> bool:
    """Whether auto may take it: what is made here where the card is fast with it and no download is needed."""
    source = source_of(variant)
    return not source or (multiplies_convrot(card) and any(map(find, (*variant.diffusion, source.id))))


def offer(card: Card, chosen: Variant, plans: dict[Variant, Plan], limit: float, find: Find) -> str:
    """What a file that could be made here would bring, as the end of a sentence; nothing where that is little."""
    for variant, plan in plans.items():
        source, saved = source_of(variant), 1 - plan.seconds / plans[chosen].seconds
        if not source or not multiplies_convrot(card) or is_offered(variant, card, find):
            continue
        if plan.fits and error(variant) <= limit and saved > WORTH:
            return (
                f"; {precision(variant)} would take {saved:.0%} less time, and is made here of {source.precision}, once "
                f"({source.size / 1e9:.1f} GB to download: choose {variant.id} in the loader, or use Convert Model)"
            )
    return ""


@lru_cache(maxsize=64)
def plans_of(family: str, card: Card, host: Host, rules: Rules, job: Job | None) -> dict[Variant, Plan]:
    """The plan of every variant of a family, in their order: `job`, or else the usual one, by the catalogue's sizes."""
    found = {}
    for variant in variants(family):
        its = replace(job, variant=variant.id) if job else usual_job(variant.id)
        found[variant] = plan_variant(its, card, [], {}, host, rules, explain=False)
    return found


def without_gpu(family: str, here: Callable[[Variant], bool], plans: dict[Variant, Plan]) -> Choice:
    """What is here and good enough, else the family's default."""
    limit = table()["preferences"]["balanced"]["here_error"]
    usual = catalogue().variants[catalogue().families[family].default]
    published = [variant for variant in variants(family) if not source_of(variant)]
    kept = [variant for variant in (usual, *published) if here(variant) and error(variant) <= limit]
    chosen = kept[0] if kept else usual
    reason = "there is no GPU to choose for" + ("; it is already here" if kept else "")
    return Choice(chosen.id, reason, plans[chosen])


def precision(variant: Variant) -> str:
    """How a variant's diffusion model, which it must have, is stored: fp8, bf16, Q4_K_M, … as the catalogue writes it."""
    file = catalogue().diffusion(variant)
    assert file, f"{variant.id} has no diffusion model"
    return file.precision


def explained(variant: Variant, plan: Plan) -> str:
    """What a variant is and what the usual job makes of it."""
    where = "all of it on the card"
    if plan.kept < plan.blocks:
        where = f"{plan.kept} of {plan.blocks} blocks on the card, the others come from RAM in every step"
    size = f"{precision(variant)}: {weights(variant) / 1e9:.1f} GB"
    return f"{size}, {where}, error against float32 about {error(variant):g} %"


def too_small(plan: Plan) -> str:
    """Why nothing fits the usual job."""
    variant = catalogue().variants[plan.variant]
    job = f"{plan.job.width}×{plan.job.height}" + (f" with {plan.job.frames} frames" if plan.job.frames > 1 else "")
    lacks = plan.advice or [f"{plan.worst.peak / 1e9:.1f} GB of {plan.card.free / 1e9:.1f} GB are needed on the card."]
    lead = f"{precision(variant)}: {weights(variant) / 1e9:.1f} GB, and nothing fits {job}"
    return f"{lead}; choose a smaller size or fewer frames. {' '.join(lacks)}"


def refusal(family: str, plan: Plan, rules: Rules) -> str:
    """Why no variant can be wholly on the card, where GPU_MEMORY_MODE or a flag wants that."""
    if rules.kept != "all":
        return ""
    sample = plan.phase("sample")
    assert sample, "every plan samples"
    job = f"{plan.job.width}×{plan.job.height} with {plan.job.frames} frames"
    return (
        f"Nothing of {family} fits whole into {plan.card.free / 1e9:.1f} GB: {job} alone takes "
        f"{(sample.peak - sample.weights) / 1e9:.1f} GB. {rules.undo}, or take a card with more memory."
    )
