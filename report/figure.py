"""One thing that is measured in every frame, and what it means: good, look at it, or broken."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..base.toml import read_toml

GOOD, LOOK, BROKEN, UNSEEN = "good", "look at it", "broken", "nothing to see"


@dataclass(frozen=True)
class Limits:
    """An entry of limits.toml, whose first lines say what the fields are."""

    name: str
    unit: str
    better: str
    good: float
    broken: float
    at: float
    source: str
    evidence: str
    change: str

    def badness(self, value: np.ndarray | float) -> np.ndarray:
        """0 and less up to the limit of good, 1 and more from the limit of broken on."""

        def bad(number: np.ndarray | float) -> np.ndarray:
            if self.better == "one":
                return np.abs(np.log(np.maximum(number, 1e-3)))
            return -np.asarray(number) if self.better == "high" else np.asarray(number)

        return (bad(value) - bad(self.good)) / (bad(self.broken) - bad(self.good))


@lru_cache
def limits() -> dict[str, Limits]:
    """All figures that there are, in the order in which they are shown."""
    return {key: Limits(**entry) for key, entry in read_toml(Path(__file__).with_name("limits.toml")).items()}


@dataclass(frozen=True)
class Figure:
    """curve [frames] float64, NaN where nothing can be said; parts: name of a joint, limb or region → frames with a fault."""

    id: str
    curve: np.ndarray
    parts: dict[str, list[int]] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        """What the figure is held against."""
        return limits()[self.id]

    @property
    def value(self) -> float | None:
        """What is judged: the frame than which `at` of all frames are better. None where nothing can be said."""
        known = self.curve[np.isfinite(self.curve)]
        if not len(known):
            return None
        order = np.argsort(self.limits.badness(known), kind="stable")
        return float(known[order[int(np.ceil(self.limits.at * (len(known) - 1)))]])

    @property
    def word(self) -> str:
        """Good, look at it or broken, by the value; unseen where nothing can be said."""
        if self.value is None:
            return UNSEEN
        badness = self.limits.badness(self.value)
        return BROKEN if badness >= 1 else LOOK if badness > 0 else GOOD

    @property
    def frames(self) -> list[int]:
        """Where the curve leaves what is good."""
        return np.flatnonzero(np.nan_to_num(self.badness) > 0).tolist()

    @property
    def badness(self) -> np.ndarray:
        """The curve between its limits: 0 and less is good, 1 and more broken."""
        return self.limits.badness(self.curve)
