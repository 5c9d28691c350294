"""The door that every name of a file to be saved comes in by."""

from pathlib import Path

from ..bucket import keys

LONGEST = 200  # bytes of each part; ComfyUI puts a counter and the ending behind it
FALLBACK = "SteadyDancer"


def clean_prefix(filename_prefix: str) -> str:
    """Folders and name below the output folder, as every system, log and script takes them; FALLBACK where nothing is left.

    It is asked when the work is done, so it refuses nothing.
    """
    try:
        return keys.clean(filename_prefix, LONGEST)
    except ValueError:
        return FALLBACK


def free_file(folder: Path, name: str, counter: int, ending: str) -> Path:
    """The first file from `counter` on that nobody has, also where another ComfyUI saves into the same folder.

    It is to be written as `hidden(path)`, which exists from now on and says that the name is taken. Where nothing can be
    made in the folder, it is the first name, and the writer tells why.
    """
    while True:
        path = folder / f"{name}_{counter:05}_{ending}"
        try:
            hidden(path).touch(exist_ok=False)
        except FileExistsError:
            counter += 1
            continue
        except OSError:
            return path
        if not path.exists():
            return path
        hidden(path).unlink()
        counter += 1


def hidden(path: Path) -> Path:
    """Where a file is written: the folder sync and ComfyUI's counter leave hidden files alone."""
    return path.with_name(f".{path.name}")
