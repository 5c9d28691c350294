"""The only reader of environment variables. Read when a node or command runs, never at import or in a schema."""

import os


def text(name: str, default: str = "") -> str:
    """The variable's value without surrounding blanks, or `default` where it is unset or blank."""
    return os.environ.get(name, "").strip() or default


def flag(name: str, default: bool = False) -> bool:
    """A true/false variable.

    Raises ValueError naming the variable when it is neither.
    """
    value = text(name).lower()
    if not value:
        return default
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise ValueError(
        f"{name} is '{value}', but only true or false is understood. Set it to one of the two or unset it."
    )


def number(name: str, default: float) -> float:
    """A numeric variable.

    Raises ValueError naming the variable when it is not a number.
    """
    value = text(name)
    try:
        return float(value) if value else default
    except ValueError as err:
        raise ValueError(f"{name} is '{value}', which is not a number. Set it to a number or unset it.") from err
