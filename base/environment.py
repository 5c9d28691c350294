"""The only reader of environment variables. Read when a node or command runs, never at import or in a schema."""

import math
import os

TRUE = ("1", "true", "yes", "on")


def text(name: str, default: str = "") -> str:
    """The variable's value without surrounding blanks, or `default` where it is unset or blank."""
    return os.environ.get(name, "").strip() or default


def names(beginning: str) -> list[str]:
    """The variables that are set and whose names begin so."""
    return sorted(name for name in os.environ if name.startswith(beginning))


def is_true(name: str) -> bool:
    """Whether a variable says so; another program's may say anything else."""
    return text(name).lower() in TRUE


def flag(name: str, default: bool = False) -> bool:
    """A true/false variable.

    Raises ValueError naming the variable when it is neither.
    """
    value = text(name).lower()
    if not value:
        return default
    if value in TRUE:
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise ValueError(
        f"{name} is '{value}', but only true or false is understood. Set it to one of the two or unset it."
    )


def number(name: str, default: float) -> float:
    """A numeric variable: an int where it is written as one, so that no digit of a long seed is lost.

    Raises ValueError naming the variable when it is not a number.
    """
    value = text(name)
    if not value:
        return default
    for kind in (int, float):
        try:
            if math.isfinite(kind(value)):
                return kind(value)
        except ValueError:
            pass
    raise ValueError(f"{name} is '{value}', which is not a number. Set it to a number or unset it.")
