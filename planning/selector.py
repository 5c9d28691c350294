"""Which variant of a family suits a card: the rules are selector.toml, this applies them and says why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from .. import environment
from ..catalog.catalog import Variant, catalogue
from ..catalog.names import automatic, wished
from ..machine import gpus
from ..toml import read_toml

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
    return read_toml(Path(__file__).parent / "selector.toml")


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
    book, found = catalogue(), {}
    for variant in book.variants.values():
        if variant.family == family and variant.diffusion and book.diffusion(variant).precision != "fp32":
            precision = book.diffusion(variant).precision
            found["fp16" if precision == "bf16" else precision] = variant
    return found


def select(
    family: str,
    card: Card,
    preference: str = "auto",
    here: Callable[[Variant], bool] = lambda variant: False,
    rather_here: bool = False,
) -> Choice:
    """The variant of `family` for `card`. `here` says whether a variant's files are on disk.

    A file that is here wins when it is one step from the best; with `rather_here`, when it is good enough at all.
    Raises ValueError for an unknown family, a wrong environment variable, or where GPU_MEMORY_MODE asks for what cannot be.
    """
    if family not in rules()["families"]:
        raise ValueError(f"There is nothing to choose from in '{family}'. Choose one of {', '.join(families())}.")
    if preference == "auto" and family == "steadydancer" and wished() != "auto":
        return Choice(automatic(), "STEADYDANCER_VARIANT says so", weights(catalogue().variants[automatic()]), 0.0, 0.0)
    if rather_here and not card.sm:
        usual = catalogue().variants[automatic(family)]
        return Choice(usual.id, "there is no GPU to choose for", weights(usual), 0.0, 0.0)
    ranked = ranking(family, card, preferred() if preference == "auto" else preference)
    near = ranked[:2]
    if rather_here:
        whole = fits(family, card, ranked[0])
        good = [format for format in by_error(family) if error(format) <= rules()["auto"]["error"]]
        near = [*ranked, *(format for format in good if fits(family, card, format) == whole)]
    format = next((format for format in near if here(formats(family)[format])), ranked[0])
    choice = explained(family, card, format)
    if format == ranked[0]:
        return choice
    return replace(choice, reason=f"{choice.reason}; it is already here, and {ranked[0]} would be the first choice")


def ranking(family: str, card: Card, preference: str) -> list[str]:
    """The family's formats for a card, the best first: those that fit whole, or where none does, all of the preference.

    Raises ValueError where none does and GPU_MEMORY_MODE wants the whole model on the card.
    """
    wished = order(family, card.sm, preference)
    whole = [format for format in wished if fits(family, card, format)]
    if not whole and mode() in ("full", "model_cpu_offload"):
        whole = [format for format in by_error(family) if fits(family, card, format)]
        if not whole:
            job, working = (rules()["families"][family][name] for name in ("job", "working_gb"))
            raise ValueError(
                f"Nothing of {family} fits whole into {card.gb:.1f} GB: {job} alone takes {working:.1f} GB. "
                f"Set GPU_MEMORY_MODE from {mode()} to auto, or take a card with more memory."
            )
    if whole:
        return whole
    at = wished.index(rules()["orders"][preference]["streamed"])
    return [*wished[at:], *reversed(wished[:at])]


def fits(family: str, card: Card, format: str) -> bool:
    """Whether a format's weights can all be on the card beside the usual job."""
    room = card.gb - rules()["families"][family]["working_gb"]
    return mode() != "sequential_cpu_offload" and weights(formats(family)[format]) <= room


def order(family: str, sm: int, preference: str = "auto") -> list[str]:
    """The family's formats that a preference allows on a card of compute capability `sm`, the best first."""
    row = rules()["orders"][preferred() if preference == "auto" else preference]
    card = "native" if multiplies_fp8(family, sm) else "in_16_bits" if sm >= rules()["native"]["sm"] else "other"
    return [format for format in row.get(card, row["other"]) if format in formats(family)]


def multiplies_fp8(family: str, sm: int) -> bool:
    """Whether the family's fp8 file is multiplied as fp8 on a card of compute capability `sm`: both must want it."""
    file = catalogue().files[formats(family)["fp8"].diffusion[0]]
    return sm >= rules()["native"]["sm"] and not file.full_precision


def weights(variant: Variant) -> float:
    """Decimal GB of a variant's diffusion model."""
    return sum(catalogue().files[file].size for file in variant.diffusion) / 1e9


def error(format: str) -> float:
    return rules()["formats"][format]["error"]


def by_error(family: str) -> list[str]:
    """The family's formats, the most accurate first."""
    return sorted((f for f in formats(family) if f in rules()["formats"]), key=error)


def explained(family: str, card: Card, format: str) -> Choice:
    """A format as the choice for a card, with the reason: on the card as a whole, or streamed from RAM in every step."""
    variant, working = formats(family)[format], rules()["families"][family]["working_gb"]
    size, room = weights(variant), card.gb - working
    if fits(family, card, format):
        native = multiplies_fp8(family, card.sm)
        words = [f"{format}: {size:.1f} GB, all of it on the card"]
        if format == "fp8":
            words.append("this card multiplies fp8 natively" if native else "multiplied in 16 bits")
        elif format != "fp16":
            words.append(f"error against float32 about {error(format):g} %")
        reason = ", ".join(words) + alternative(format, formats(family), room, native)
        return Choice(variant.id, reason, size, 0.0, working)
    waiting = size if mode() == "sequential_cpu_offload" else min(size, size - max(0.0, room))
    reason = f"{format}: {size:.1f} GB, of which {waiting:.1f} GB wait in RAM and are brought over in every step"
    if room < 0:
        job = rules()["families"][family]["job"]
        reason += f"; {job} alone takes {working:.1f} GB, so choose a smaller size or fewer frames"
    return Choice(variant.id, reason, size, waiting, working)


def alternative(best: str, known: dict[str, Variant], room: float, native: bool) -> str:
    """What would be more accurate and still fit, and what it costs."""
    table = {format: row for format, row in rules()["formats"].items() if format in known}
    better = [f for f, row in table.items() if row["error"] < table[best]["error"] and weights(known[f]) <= room]
    if not better:
        return ""
    other = min(better, key=lambda format: table[format]["error"])
    speed = "slower_native" if native else "slower"
    percent = round((table[other][speed] / table[best][speed] - 1) * 100)
    larger = weights(known[other]) - weights(known[best])
    cost = f"{abs(larger):.1f} GB {'larger' if larger > 0 else 'smaller'}"
    return f"; {other} would be more accurate and {f'{percent} % slower' if percent >= 2 else cost}"


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
