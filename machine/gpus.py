"""The GPUs that can be chosen by name: gpus.toml as cards."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..base.toml import read_toml
from . import gpu_names
from .card import Card

GIB = 1 << 30
MIG_USABLE = 0.95  # of the gigabytes in the instance's name: 9.5 of a 1g.10gb


FP8_SM = 89  # first compute capability that multiplies fp8, as ComfyUI's supports_fp8_compute says
FILE = "gpus.toml"
NEEDED = {"gib", "sm", "bf16", "bandwidth", "pcie"}
FIELDS = NEEDED | {"fp8", "price"}
EXAMPLE = 'Write "My Card" = { gib = 20, sm = 86, bf16 = 90, bandwidth = 640, pcie = 25, price = 0.3 } below [gpus].'
own: Path | None = None


def use(path: Path) -> None:
    """From now on, the user's own table at `path` has the last word on prices and cards."""
    global own
    own = path


@lru_cache(maxsize=1)
def shipped() -> dict:
    """The package's own table, as TOML gives it."""
    return read_toml(Path(__file__).parent / FILE)


def table() -> dict:
    """The shipped table with the user's own prices and cards in it. Raises ValueError for a wrong entry of theirs."""
    try:
        changed = own.stat().st_mtime_ns if own else 0
    except OSError:  # there is none
        changed = 0
    return merged(own, changed) if changed else shipped()


@lru_cache(maxsize=1)
def merged(path: Path, changed: int) -> dict:
    """The shipped table with `path`, last `changed` then, laid over it."""
    try:
        mine = read_toml(path)
    except ValueError as err:
        raise ValueError(f"{path} cannot be read: {err}. Correct it, or take it away.") from err
    gpus, own_gpus = dict(shipped()["gpus"]), mine.get("gpus", {})
    if not isinstance(own_gpus, dict):
        raise ValueError(f"{path}: [gpus] must be a table. {EXAMPLE}")
    for name, entry in own_gpus.items():
        both = {**gpus.get(name, {}), **entry} if isinstance(entry, dict) else {}
        if lacking := NEEDED - both.keys():
            raise ValueError(f"{path}: '{name}' lacks {', '.join(sorted(lacking))}. {EXAMPLE}")
        for field, value in both.items():
            if field not in FIELDS or not is_size(value):
                raise ValueError(
                    f"{path}: {field} of '{name}' must be one of {', '.join(sorted(FIELDS))}, and a number."
                )
        gpus[name] = both
    numbers = {name: mine.get(name, shipped()[name]) for name in ("desktop_gb", "context_gb")}
    for name, value in numbers.items():
        if not is_size(value):
            raise ValueError(f"{path}: {name} must be a number of GB.")
    return {**shipped(), **numbers, "gpus": gpus}


def is_size(value: object) -> bool:
    """Whether a value of the user's own table is a number that is no less than nothing; TOML's true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def cards() -> tuple[Card, ...]:
    """All cards of the table, smallest first. Home cards have a desktop on them, rented ones are empty."""
    found = []
    for name, gpu in table()["gpus"].items():
        total = round(gpu["gib"] * GIB)
        rates = {"bf16": gpu["bf16"] * 1e12, "fp8": gpu.get("fp8", 0) * 1e12}
        speeds = {"bandwidth": gpu["bandwidth"] * 1e9, "pcie": gpu["pcie"] * 1e9}
        found.append(Card(name, total, usable(total), gpu["sm"], **rates, **speeds, price=gpu.get("price")))
    return tuple(sorted(found, key=lambda card: (card.total, card.sm, card.name)))


def usable(total: int) -> int:
    """Bytes of a card of `total` bytes that models may use: not what CUDA takes, nor, at home, the desktop."""
    home = 0 if tier(total) == "datacenter" else table()["desktop_gb"]
    return total - round((home + table()["context_gb"]) * 1e9)


def names() -> list[str]:
    """The cards' names for a list to choose from: the shipped ones where the user's own file is wrong, which is said later."""
    try:
        return [card.name for card in cards()]
    except ValueError:
        return list(shipped()["gpus"])


def unlisted(gib: float, sm: int) -> Card:
    """A card that is not in the table: memory as sold, and the rates of the table's card that is most like it."""
    if not 0 < gib < 100_000:
        raise ValueError(f"No card has {gib:g} GB. Give its memory in GB, like 24.")
    total = round(gib * GIB)
    if usable(total) <= 0:
        raise ValueError(f"A card of {gib:g} GB is too small for anything here.")
    return as_like(f"{gib:g} GB card", total, usable(total), sm)


def as_like(name: str, total: int, free: int, sm: int, price: float | None = None) -> Card:
    """A card with the rates of the table's card that is most like it."""
    like = nearest(total, sm)
    return replace(like, name=name, total=total, free=free, sm=sm, fp8=like.fp8 if sm >= FP8_SM else 0.0, price=price)


def tier(total: int) -> str:
    """consumer, prosumer or datacenter, by a card's memory in bytes."""
    fitting = [name for name, gib in shipped()["tiers"].items() if total >= gib * GIB]
    return fitting[-1] if fitting else "consumer"


def card(name: str) -> Card:
    """A card by any name that people or drivers give to it. Raises ValueError with the names that there are."""
    found = gpu_names.find(name, memory())
    if len(found) == 1:
        return sliced(next(card for card in cards() if card.name == found[0]), gpu_names.mig(name))
    known = ", ".join(found or memory())
    raise ValueError(f"'{name}' is {'several cards' if found else 'no card of the table'}. Choose one of {known}.")


def known_as(device: str) -> Card | None:
    """The card of the table that a driver's name, such as "NVIDIA GeForce RTX 4060 Ti", means; None where there is none."""
    try:
        return card(device)
    except ValueError:
        return None


def memory() -> dict[str, float]:
    """GiB by name, smallest first."""
    return {card.name: card.total / GIB for card in cards()}


def sliced(whole: Card, mig: tuple[int, int] | None) -> Card:
    """The part of a card that a MIG instance of so many compute slices and gigabytes is."""
    if mig is None:
        return whole
    slices, gigabytes = mig
    power = slices / (7 if whole.sm in (80, 90, 100) else 4)
    share = gigabytes * GIB / whole.total
    total = round(MIG_USABLE * gigabytes * GIB)
    return replace(
        whole,
        name=f"{whole.name} MIG {slices}g.{gigabytes}gb",
        total=total,
        free=total - round(table()["context_gb"] * 1e9),
        bf16=whole.bf16 * power,
        fp8=whole.fp8 * power,
        bandwidth=whole.bandwidth * min(1.0, share),
        price=None,
    )


def nearest(total: int, sm: int) -> Card:
    """The card of the table that is most like one of `total` bytes and compute capability `sm`."""
    return min(cards(), key=lambda card: (abs(card.sm - sm), abs(card.total - total)))


@lru_cache
def efficiency(sm: int) -> float:
    """Part of the datasheet rate that is reached; 1 without a GPU, whose rate is a measured one."""
    known = {int(key): value for key, value in shipped()["efficiency"].items()}
    return known[max(key for key in known if key <= sm)] if sm >= min(known) else 1.0
