"""What can go wrong with a download, in words for the user."""

import errno
import os
import re
import unicodedata
from pathlib import Path

from ...base.retry import LONGEST_WAIT

NO_SUCH_NAME = "the server's name is not known"  # mostly: there is no network
LONGEST = 200  # characters of a foreign text that a sentence quotes


class DownloadError(RuntimeError):
    """A download that cannot succeed by itself. Its text is for the user."""


class NoRoom(DownloadError):
    """The disk is too small, whatever the source."""


class NotThere(DownloadError):
    """The publisher answers, and does not have the file."""


class Changed(DownloadError):
    """The server has another version than the one that was begun: it must be fetched anew."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was changed by its publisher during the download. Try again.")


def in_a_row(failures: int) -> str:
    """How often something failed, as the end of a sentence: nothing where it was once."""
    return f", {failures} times in a row" if failures > 1 else ""


def come_back(delay: float) -> DownloadError | None:
    """Where a server asks to come back after `delay` seconds, which is longer than anybody would wait."""
    if delay <= LONGEST_WAIT:
        return None
    return DownloadError(f"The server asks to come back in {delay / 60:.0f} minutes. Try again then; nothing is lost.")


def refusal(status: int, url: str, name: str) -> str:
    """What an HTTP status that repeating will not change means for the file `name`."""
    host = printable(url.split("/")[2])
    if status in (401, 403):
        return (
            f"{host} refuses {name}: it needs an account that may download it. "
            "Log in (HF_TOKEN or CIVITAI_API_KEY), accept its licence on its page, and try again."
        )
    if status in (404, 410):
        return f"{host} does not have {name}: it was moved or removed. Update SteadyDancer or the workflow that names it, or place it by hand."
    return f"{host} answered {status} when asked for {name}. Try again later."


def bad_token(origin: str, host: str, name: str) -> str:
    """A token that its own host does not take. `origin` says where it came from; its value is never shown."""
    return (
        f"{host} refuses the token in {origin} when asked for {name}: it has expired, was revoked, is mistyped or may "
        "not read this file. Make a new one there and set it."
    )


def unexpected(name: str, err: Exception) -> str:
    """A failure that nobody thought of. It is not the network's."""
    cause = printable(without_query(f"{type(err).__name__}: {err}"))
    return (
        f"{name} cannot be downloaded: something unexpected failed on this machine, not in the network ({cause}). "
        "Please report it with the log. Until then the file can be placed by hand."
    )


def disk_fault(err: OSError, path: Path) -> str:
    """What an error of a disk means while `path` is fetched."""
    folder, name = path.parent, path.name
    kept = "What was fetched is kept."
    if err.errno == errno.ENOSPC:
        return f"The disk is full while {name} is downloaded. {kept} Free some space and try again."
    if err.errno == errno.EDQUOT:
        return (
            f"The disk is full while {name} is downloaded: your share of it (quota) is used up. {kept} "
            "Free some space and try again."
        )
    if err.errno == errno.EFBIG:
        return (
            f"{name} is larger than a file may be in {folder}. FAT32 ends at 4 GB, and a system can have a limit of its "
            "own (ulimit -f). Choose a smaller variant or another volume."
        )
    if err.errno == errno.EROFS:
        return f"{name} cannot be downloaded: {folder} is on a volume that can only be read. Choose another folder."
    if err.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{name} cannot be downloaded: ComfyUI's user may not write in {folder}. "
            "Change the rights of the folder, or place the file there by hand."
        )
    if err.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        at = printable(err.filename or path)
        return f"{name} cannot be downloaded: {at} is a file where a folder is needed, or a folder in a file's place."
    if err.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
        return f"{name} cannot be downloaded: the volume of {folder} takes no file of that name."
    if err.errno in (errno.EMFILE, errno.ENFILE):
        return f"{name} cannot be downloaded: too many files are open on this machine. {kept} Restart ComfyUI."
    why = os.strerror(err.errno) if err.errno else printable(err)
    return f"{name} cannot be downloaded: the disk of {folder} failed ({why}). {kept} Check the volume and try again."


def printable(text: object) -> str:
    """A foreign text as one short line: no line breaks, escapes, direction marks or halves of characters."""
    clean = "".join("?" if unicodedata.category(letter)[0] == "C" else letter for letter in str(text))
    clean = " ".join(clean.split())
    return clean if len(clean) <= LONGEST else f"{clean[: LONGEST - 1]}…"


def without_query(text: str) -> str:
    """A text whose addresses have lost what follows their question mark: signatures."""
    return re.sub(r"\?[^\s\"'<>)]*", "?…", text)
