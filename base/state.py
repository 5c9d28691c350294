"""The one folder in which this package keeps what outlasts a run, and the way there from where earlier versions kept it."""

import functools
import logging
import os
from contextlib import suppress
from pathlib import Path

from .lock import locked

log = logging.getLogger(__name__)


def state_file(name: str, user: Path | None) -> Path:
    """Where the file `name` is kept: in `user`, ComfyUI's user folder, or without ComfyUI (None) in ~/.config/steadydancer.

    What an earlier version left elsewhere is moved here first, over nothing that is here. Where it cannot be moved (the
    folder is read-only, or on another volume), it is used where it lies.
    """
    if user:  # ComfyUI serves nothing over HTTP from a folder whose name begins so
        folder, before = user / "__steadydancer", user / "steadydancer"
    else:
        folder, before = Path.home() / ".config" / "steadydancer", Path.home() / ".config" / "__steadydancer"
    path, old = folder / name, before / name
    if not os.path.lexists(old):  # a link that leads nowhere today may lead somewhere when its volume is there
        return path
    with locked(folder / "claims" / "move.lock"):
        if not os.path.lexists(old):  # another process has just moved it
            return path
        if os.path.lexists(path):
            _tell(old, path)
            return path
        try:
            os.rename(old, path)
        except OSError:
            return old
    log.info("%s is now %s", old, path)
    with suppress(OSError):  # something else is in it
        before.rmdir()
    return path


@functools.cache
def _tell(old: Path, path: Path) -> None:
    """Once a file."""
    log.warning("%s is not used: %s is. Take over what you need of it, then remove it.", old, path)
