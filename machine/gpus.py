"""The GPUs that can be chosen by name: gpus.toml as cards."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..toml import read_toml
from . import gpu_names
from .card import Card

GIB = 1 << 30
MIG_USABLE = 0.95  # of the gigabytes in the instance's name: 9.5 of a 1g.10gb


@lru_cache(maxsize=1)
def table() -> dict:
    return read_toml(Path(__file__).parent / "gpus.toml")


@lru_cache(maxsize=1)
def cards() -> tuple[Card, ...]:
    """All cards of the table, smallest first. Home cards have a desktop on them, rented ones are empty."""
    found = []
    for name, gpu in table()["gpus"].items():
        total = gpu["gib"] * GIB
        home = 0 if tier(total) == "datacenter" else table()["desktop_gb"]
        free = total - round((home + table()["context_gb"]) * 1e9)
        rates = {"bf16": gpu["bf16"] * 1e12, "fp8": gpu.get("fp8", 0) * 1e12}
        speeds = {"bandwidth": gpu["bandwidth"] * 1e9, "pcie": gpu["pcie"] * 1e9}
        found.append(Card(name, total, free, gpu["sm"], **rates, **speeds, price=gpu["price"]))
    return tuple(sorted(found, key=lambda card: (card.total, card.sm, card.name)))


def tier(total: int) -> str:
    """consumer, prosumer or datacenter, by a card's memory in bytes."""
    fitting = [name for name, gib in table()["tiers"].items() if total >= gib * GIB]
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


def efficiency(sm: int) -> float:
    """Part of the datasheet rate that is reached; 1 without a GPU, whose rate is a measured one."""
    known = {int(key): value for key, value in table()["efficiency"].items()}
    return known[max(key for key in known if key <= sm)] if sm >= min(known) else 1.0
