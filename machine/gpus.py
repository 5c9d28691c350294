"""The GPUs that can be chosen by name: gpus.toml as cards."""

import re
from functools import lru_cache
from pathlib import Path

from ..toml import read_toml
from .card import Card

GIB = 1 << 30


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
    """A card by its name or a part of it. Raises ValueError with the names that there are."""
    words = "".join(name.lower().split())
    names = {card: "".join(card.name.lower().split()) for card in cards()}
    found = [card for card in names if names[card] == words] or [card for card in names if words in names[card]]
    if len(found) == 1:
        return found[0]
    known = ", ".join(card.name for card in found or cards())
    raise ValueError(f"'{name}' is {'several cards' if found else 'no card of the table'}. Choose one of {known}.")


def known_as(device: str) -> Card | None:
    """The card of the table that a driver's name, such as "NVIDIA GeForce RTX 4060 Ti", means; None where there is none."""
    words = set(re.findall(r"\w+", device.lower()))
    if words & {"laptop", "max"}:  # the same number, another chip
        return None
    named = {card: [word for word in card.name.lower().split() if not word.endswith("gb")] for card in cards()}
    found = [card for card in named if words.issuperset(named[card])]
    return max(found, key=lambda card: len(named[card]), default=None)


def nearest(total: int, sm: int) -> Card:
    """The card of the table that is most like one of `total` bytes and compute capability `sm`."""
    return min(cards(), key=lambda card: (abs(card.sm - sm), abs(card.total - total)))


def efficiency(sm: int) -> float:
    """Part of the datasheet rate that is reached; 1 without a GPU, whose rate is a measured one."""
    known = {int(key): value for key, value in table()["efficiency"].items()}
    return known[max(key for key in known if key <= sm)] if sm >= min(known) else 1.0
