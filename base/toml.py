"""Reading TOML with every Python that ComfyUI runs on."""

from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    try:
        import tomli as tomllib  # type: ignore[no-redef]  # of the two there is one
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "Python 3.10 cannot read TOML files by itself. Run `pip install tomli`, or use Python 3.11 or newer."
        ) from err


def read_toml(path: Path) -> dict:
    """A TOML file of this package."""
    return tomllib.loads(path.read_text(encoding="utf-8"))
