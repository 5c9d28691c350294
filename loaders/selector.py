"""Which variant of a family suits a card: the rules are selector.toml, this applies them and says why."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from .. import environment
from ..budget import gpus
from .catalog import DATA, Variant, catalogue, tomllib
from .select import automatic

PREFERENCES = ("quality", "balanced", "speed", "smallest")
MODES = ("auto", "full", "model_cpu_offload", "sequential_cpu_offload")
TIERS = ("auto", "consumer", "prosumer", "datacenter")


@dataclass(frozen=True)
class Card:
    """`gb` decimal GB that a model may use, `sm` the compute capability (89 for 8.9), 0 without a GPU."""

    name: str
    gb: float
    sm: int


@dataclass(frozen=True)
class Choice:
    """A variant, why, and the decimal GB that it takes: `weights` of which `streamed` wait in RAM, `working` beside them."""

    variant: str
    reason: str
    weights: float
    streamed: float
    working: float


@lru_cache(maxsize=1)
def rules() -> dict:
    return tomllib.loads((DATA / "selector.toml").read_text(encoding="utf-8"))


def families() -> list[str]:
    return list(rules()["families"])


def cards() -> list[Card]:
    """The cards of the planner's table, smallest first, with what models may use of them."""
    return [Card(gpu.name, round(gpu.free / 1e9, 1), gpu.sm) for gpu in gpus.cards()]


def card(name: str) -> Card:
    """A card of the table by its name, or a part of it. Raises ValueError with the names that there are."""
    wanted = gpus.card(name).name
    return next(card for card in cards() if card.name == wanted)


def formats(family: str) -> dict[str, Variant]:
    """Format (fp16, fp8, Q4_K_M) → the family's variant in it."""
    found = {}
    for variant in catalogue().variants.values():
        word = re.search(r"(Q\d\w*|fp8|fp16|bf16)(?:mixed)?$", variant.id)
        if variant.family == family and word:
            found["fp16" if word[1] == "bf16" else word[1]] = variant
    return found


def select(
    family: str,
    card: Card,
    preference: str = "auto",
    here: Callable[[Variant], bool] = lambda variant: False,
) -> Choice:
    """The variant of `family` for `card`. `here` says whether a variant's files are on disk.

    Raises ValueError for an unknown family, a wrong environment variable, or where GPU_MEMORY_MODE=full cannot be.
    """
    if family not in rules()["families"]:
        raise ValueError(f"There is nothing to choose from in '{family}'. Choose one of {', '.join(families())}.")
    if preference == "auto" and family == "steadydancer" and environment.text("STEADYDANCER_VARIANT", "auto") != "auto":
        wished = catalogue().variants[automatic()]
        return Choice(wished.id, "STEADYDANCER_VARIANT says so", weights(wished), 0.0, 0.0)
    known, native = formats(family), card.sm >= rules()["native"]["sm"]
    preference = preferred() if preference == "auto" else preference
    wished = order(family, card.sm, preference)
    working = rules()["families"][family]["working_gb"]
    room = card.gb - working
    fitting = [] if mode() == "sequential_cpu_offload" else [f for f in wished if weights(known[f]) <= room]
    if not fitting:
        return streamed(family, card, known[rules()["orders"][preference]["streamed"]], working)
    best = fitting[0]
    note = ""
    if not here(known[best]) and len(fitting) > 1 and here(known[fitting[1]]):
        best, note = fitting[1], f"; it is already here, and {fitting[0]} is one step better"
    words = [f"{best}: {weights(known[best]):.1f} GB, all of it on the card", *about(best, native)]
    reason = ", ".join(words) + note + alternative(best, known, room, native)
    return Choice(known[best].id, reason, weights(known[best]), 0.0, working)


def order(family: str, sm: int, preference: str = "auto") -> list[str]:
    """The family's formats that a preference allows on a card of compute capability `sm`, the best first."""
    row = rules()["orders"][preferred() if preference == "auto" else preference]
    return [
        format for format in row["native" if sm >= rules()["native"]["sm"] else "other"] if format in formats(family)
    ]


def weights(variant: Variant) -> float:
    """Decimal GB of a variant's diffusion model."""
    return sum(catalogue().files[file].size for file in variant.diffusion) / 1e9


def about(format: str, native: bool) -> list[str]:
    if format == "fp8":
        return ["this card multiplies fp8 natively" if native else "this card unpacks fp8 before it multiplies"]
    return [] if format == "fp16" else [f"error against float32 about {rules()['formats'][format]['error']:g} %"]


def alternative(best: str, known: dict[str, Variant], room: float, native: bool) -> str:
    """What would be more accurate and still fit, and what it costs."""
    table = {format: row for format, row in rules()["formats"].items() if format in known}
    better = [f for f, row in table.items() if row["error"] < table[best]["error"] and weights(known[f]) <= room]
    if not better:
        return ""
    other = min(better, key=lambda format: table[format]["error"])
    speed = "slower_native" if native else "slower"
    percent = round((table[other][speed] / table[best][speed] - 1) * 100)
    cost = f"{percent} % slower" if percent >= 2 else f"{weights(known[other]) - weights(known[best]):.1f} GB larger"
    return f"; {other} would be more accurate and {cost}"


def streamed(family: str, card: Card, variant: Variant, working: float) -> Choice:
    """A choice whose weights do not all fit: ComfyUI brings the rest over from RAM, layer by layer, every step."""
    job, size = rules()["families"][family]["job"], weights(variant)
    room = card.gb - working
    if mode() == "full" and size > room:
        raise ValueError(
            f"Nothing of {family} fits whole into {card.gb:.1f} GB: {job} alone takes {working:.1f} GB. "
            "Set GPU_MEMORY_MODE to auto, or take a card with more memory."
        )
    waiting = min(size, size - max(0.0, room))
    if mode() == "sequential_cpu_offload":
        waiting = size
    format = variant.id.rpartition("/")[2]
    reason = f"{format}: {size:.1f} GB, of which {waiting:.1f} GB wait in RAM and are brought over in every step"
    if room < 0:
        reason += f"; {job} alone takes {working:.1f} GB, so choose a smaller size or fewer frames"
    return Choice(variant.id, reason, size, waiting, working)


def preferred() -> str:
    """What `auto` means: by GPU_TIER."""
    tier = one_of("GPU_TIER", TIERS)
    return rules()["tiers"].get(tier, "balanced")


def mode() -> str:
    """How memory is to be used: STEADYDANCER_GPU_MEMORY_MODE, else GPU_MEMORY_MODE."""
    own = one_of("STEADYDANCER_GPU_MEMORY_MODE", MODES)
    return one_of("GPU_MEMORY_MODE", MODES) if own == "auto" else own


def one_of(variable: str, values: tuple[str, ...]) -> str:
    value = environment.text(variable, "auto").lower()
    if value not in values:
        raise ValueError(f"{variable} is '{value}', which there is not. Set it to one of {', '.join(values)}.")
    return value
