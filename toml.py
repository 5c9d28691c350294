"""Reading TOML with every Python that ComfyUI runs on."""

from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


def read_toml(path: Path) -> dict:
    """A TOML file of this package."""
    return tomllib.loads(path.read_text(encoding="utf-8"))
