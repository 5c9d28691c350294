"""Reading TOML with every Python that ComfyUI runs on."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "Python 3.10 cannot read TOML files by itself. Run `pip install tomli`, or use Python 3.11 or newer."
        ) from err


def read_toml(path: Path) -> dict:
    """A TOML file of this package."""
    return tomllib.loads(path.read_text(encoding="utf-8"))
