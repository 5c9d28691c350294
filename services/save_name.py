"""The door that every name of a file to be saved comes in by."""

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
