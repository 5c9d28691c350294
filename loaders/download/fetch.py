"""From a catalogue entry to a checked file on disk: found, or fetched once from the first source that has it."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...base.cancel import Cancelled, IsCancelled, stop_if
from ...base.lock import locked
from ...base.progress import program_ends
from ...base.retry import RetryPolicy
from ...catalog.catalog import ModelFile, Source, catalogue
from ...formats import model_file
from . import hub, places, room
from .errors import Changed, DownloadError, NoRoom, disk_fault, printable, unexpected
from .places import Places
from .transfer import Progress, Remote, Transfer, notes_of

CHANGES = 2  # how often a file is begun anew because its publisher changed it meanwhile

log = logging.getLogger(__name__)


def ensure(
    file: ModelFile | str,
    where: Places | Path | str,
    progress: Progress = lambda done, total: None,
    cancelled: IsCancelled = lambda: False,
    retries: RetryPolicy | None = None,
    say: Callable[[str], None] = log.warning,
) -> Path:
    """The path of a catalogue file (or its id), fetched into the models folder `where` if it is not there.

    `progress(done, total)` counts bytes. Asks nothing of the network when the file is there. Raises DownloadError with
    what to do, Cancelled within a second of `cancelled()`, ValueError for an unknown id.
    """
    if isinstance(file, str):
        if file not in catalogue().files:
            raise ValueError(f"The catalogue has no file '{file}'.")
        file = catalogue().files[file]
    where = where if isinstance(where, Places) else Places(where)
    retries = retries or RetryPolicy()
    path = where.find(file)
    if path:
        if file.sha256 and path.is_file() and not places.recorded(path):
            say(f"{path.name} is checked once against its published sha256.")
        reason = places.damage(path, file, progress, cancelled)
        if not reason:
            return path
        if path.is_dir() or reason.startswith("cannot be read"):
            raise DownloadError(f"{path} {reason}. Move it away or make it readable, and {path.name} can be fetched.")
        kept = quarantine(path, file.format)
        say(f"{path.name} {reason}: fetching it again." + (f" What is there is kept as {kept.name}." if kept else ""))
    if hub.offline():
        raise DownloadError(by_hand(file, where))
    refused = []
    for number, source in enumerate(file.sources, 1):
        try:
            return from_source(file, source, where, path, progress, cancelled, retries, say)
        except NoRoom:
            raise
        except DownloadError as err:
            log.info("%s", err)
            if number < len(file.sources):
                say(f"{err} Trying the next source.")
            refused.append(err)
    if len(refused) == 1:
        raise refused[0]
    raise DownloadError(f"No source could give {file.name or file.id}. " + " ".join(map(str, refused))) from refused[0]


def from_source(
    file: ModelFile,
    source: Source,
    where: Places,
    path: Path | None,
    progress: Progress,
    cancelled: IsCancelled,
    retries: RetryPolicy,
    say: Callable[[str], None],
) -> Path:
    """Fetches a file from one of its sources. `path` is where one is that was found wanting.

    Raises DownloadError for everything that can go wrong, Cancelled.
    """
    before = stamp(path)
    try:
        for attempt in range(CHANGES + 1):
            remotes = hub.resolve(file, source, retries, cancelled)
            try:
                if source.kind == "snapshot":
                    return fetch_snapshot(file, where.target(file), remotes, progress, cancelled, retries)
                expect(file, source, remotes[0])
                target = path or inside(where.target(file), "" if file.name else remotes[0].name)
                # whole the last time: one answer cannot be of two versions, whatever its server calls them
                remote = replace(remotes[0], ranges=remotes[0].ranges and attempt < CHANGES)
                return fetch(remote, file, target, before, progress, cancelled, retries)
            except Changed:
                if attempt == CHANGES:
                    raise
                say(f"{file.name or file.id} has just been changed by its publisher: it is fetched anew.")
        raise AssertionError("the last attempt returns or raises")
    except (DownloadError, Cancelled):
        raise
    except OSError as err:
        raise DownloadError(disk_fault(err, path or where.target(file, file.id))) from err
    except Exception as err:
        log.error("The download of %s failed unexpectedly.", file.name or file.id, exc_info=True)
        raise DownloadError(unexpected(file.name or file.id, err)) from err


def ensure_all(
    files: Iterable[ModelFile],
    where: Places,
    progress: Progress = lambda done, total: None,
    cancelled: IsCancelled = lambda: False,
    jobs: int = 1,
    retries: RetryPolicy | None = None,
    say: Callable[[str], None] = log.warning,
) -> list[Path]:
    """The paths of several files, `jobs` of them fetched at a time, with one progress for all.

    Raises the first failure after the others that had begun have ended.
    """
    files = list(files)
    missing = enough_room(files, where, cancelled)
    counts = {file.id: (0, missing.get(file, 0)) for file in files}
    failed = threading.Event()
    reporting = threading.Lock()

    def stopped() -> bool:
        return failed.is_set() or cancelled() or program_ends()

    def one(file: ModelFile) -> Path:
        def count(done: int, total: int) -> None:
            with reporting:
                counts[file.id] = (done, total)
                progress(sum(done for done, _ in counts.values()), sum(total for _, total in counts.values()))

        try:
            path = ensure(file, where, count, stopped, retries, say)
            counts[file.id] = (counts[file.id][1], counts[file.id][1])
            return path
        except BaseException:
            failed.set()
            raise

    if jobs == 1:  # no pool: Python would wait for its thread, and so for the download, before it exits
        return [one(file) for file in files]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, file) for file in files]
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Cancelled))  # the cause, not its effect
    return [future.result() for future in futures]


def published_file(file: ModelFile, where: Places) -> ModelFile:
    """What must be here for a file to be had: itself, or the file that it is made of where it is not here whole."""
    if not file.made_from or where.usable(file):
        return file
    return catalogue().files[file.made_from]


def enough_room(files: list[ModelFile], where: Places, cancelled: IsCancelled) -> dict[ModelFile, int]:
    """Those of the files that are not here, with their bytes as far as they are known. Raises NoRoom, before a byte is
    fetched, where they do not fit together.

    Sizes that the catalogue only estimates are asked of the publisher, when it may matter. One file alone is seen to
    when its publisher has been asked anyway.
    """
    sizes = {file: file.size for file in files if not where.find(file)}
    if len(sizes) < 2 or hub.offline():
        return sizes
    targets, what = {file: where.target(file, file.id) for file in sizes}, f"{len(sizes)} files"
    try:
        room.check({targets[file]: size for file, size in sizes.items()}, what)
        if all(sizes.values()):
            return sizes
    except NoRoom:
        pass  # by estimates
    quick = RetryPolicy(attempts=1, timeout=10.0)
    asked = {file: file.bytes or published(file, quick, cancelled) for file in sizes}
    room.check({targets[file]: size for file, size in asked.items()}, what)
    return {file: size or file.size for file, size in asked.items()}


def published(file: ModelFile, retries: RetryPolicy, cancelled: IsCancelled) -> int:
    """Bytes of a file as its publisher states them; 0 where it cannot be asked: the download will say why."""
    if file.made_from:
        return file.size
    try:
        remotes = hub.resolve(file, file.sources[0], retries, cancelled)
    except Cancelled:
        raise
    except Exception:
        return 0
    return sum(remote.size or 0 for remote in remotes)


def by_hand(file: ModelFile, where: Places) -> str:
    """Which file to place where, for a machine without network."""
    size = f"{file.size / 1e9:.1f} GB, " if file.size else ""
    target = where.target(file)
    wanted = f"it at {target}" if file.name else f"{hub.like(file)} into {target}"
    return (
        f"{file.name or file.id} is not here and HF_HUB_OFFLINE forbids fetching it. "
        f"Place {wanted} ({size}from {hub.page(file.sources[0])}), "
        "or unset HF_HUB_OFFLINE."
    )


def inside(folder: Path, name: str) -> Path:
    """`folder`/`name`, unless the name, which a server gave, leads out of the folder (on Windows, by backslashes)."""
    target = Path(os.path.abspath(folder / name))
    if not target.is_relative_to(os.path.abspath(folder)):
        raise DownloadError(
            f"{printable(name)} cannot be fetched: its name leads out of {folder}. Place the file by hand."
        )
    return target


def expect(file: ModelFile, source: Source, remote: Remote) -> None:
    """Refuses, before a byte is fetched, a published file that is not the one the catalogue knows."""
    other_size = file.bytes and remote.size and file.bytes != remote.size
    other_hash = file.sha256 and remote.sha256 and not remote.sha256.startswith(file.sha256)
    if other_size or other_hash:
        raise DownloadError(
            f"{source.where} now publishes another {remote.name} than the one that this version was tested with. "
            "Update SteadyDancer, or place the file by hand."
        )


def fetch(
    remote: Remote,
    file: ModelFile,
    target: Path,
    before: tuple | None,
    progress: Progress,
    cancelled: IsCancelled,
    retries: RetryPolicy,
) -> Path:
    """Fetches one file to `target`: one transfer at a time across threads and processes, checked before it is visible.

    `before` is the stamp of the target that was found wanting.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")

    def wait() -> None:
        stop_if(cancelled)
        progress(other_transfer(part), remote.size or file.size)

    with locked(Path(f"{target}.lock"), meanwhile=wait):
        if target.is_file() and stamp(target) != before:
            return target  # another prompt or process has just fetched it
        transfer = Transfer(remote, part, retries, limit=file.bytes or 2 * file.size or None)
        transfer.resume()
        room.check({target: remote.size or file.size}, target.name)
        sha256 = transfer.run(progress, cancelled)
        check(file, remote, part, sha256, transfer.notes)
        place(part, target, file.format)
        transfer.notes.unlink(missing_ok=True)
        places.record(target, sha256)
    return target


def stamp(path: Path | None) -> tuple[int, int] | None:
    """Tells one state of a file from another; None where there is none."""
    if path is None or not path.is_file():
        return None
    return path.stat().st_mtime_ns, path.stat().st_size


def other_transfer(part: Path) -> int:
    """How many bytes the process that holds the lock has written down."""
    done = notes_of(part).get("done")
    return done if isinstance(done, int) else 0


def check(file: ModelFile, remote: Remote, part: Path, sha256: str, notes: Path) -> None:
    """Compares what arrived with what was promised; what is wrong is kept under a name that nothing loads."""
    hashes = [hash for hash in (file.sha256, remote.sha256) if hash]
    wrong = next((hash for hash in hashes if not sha256.startswith(hash)), "")
    cut = "" if hashes else places.cut_short(part, file.format)
    if not wrong and not cut:
        return
    kept = part.with_name(f"{part.name.removesuffix('.part')}.wrong-{sha256[:12]}")
    os.replace(part, kept)
    notes.unlink(missing_ok=True)
    raise DownloadError(
        f"{remote.name} arrived damaged: {f'its sha256 is not {wrong[:12]}…' if wrong else f'it {cut}'}. "
        f"It is kept as {kept.name} and is not used. Try again; if it stays so, the server has a bad copy."
    )


def quarantine(target: Path, format: str) -> Path | None:
    """Where a whole file that is not the published one is kept, for it may be somebody's own; None for a broken one."""
    if not target.is_file() or (places.cut_short(target, format) and not model_file.is_other(target, format)):
        return None
    mark = places.recorded(target).get("sha256", "")[:12] or target.stat().st_mtime_ns
    return target.with_name(f"{target.name}.wrong-{mark}")


def place(part: Path, target: Path, format: str) -> None:
    """Makes the finished file visible in one step, on the disk before its name is."""
    with open(part, "r+b") as file:
        os.fsync(file.fileno())
    kept = quarantine(target, format)
    for attempt in range(20):
        try:
            if kept and target.is_file():
                os.replace(target, kept)
            os.replace(part, target)
            return
        except PermissionError as err:
            if attempt == 19:
                raise DownloadError(
                    f"{target.name} was fetched again but the damaged one is in use. "
                    "Restart ComfyUI and run the workflow again: nothing is fetched twice."
                ) from err
            time.sleep(0.1)  # Windows: a virus scanner looks at every new file for a moment


def is_here(remote: Remote, target: Path) -> bool:
    """Whether a file of a snapshot was fetched by an earlier run."""
    known = places.recorded(target) if target.is_file() else {}
    return bool(known) and known["size"] == remote.size and (remote.sha256 or known["sha256"]) == known["sha256"]


def fetch_snapshot(
    file: ModelFile, root: Path, remotes: list[Remote], progress: Progress, cancelled: IsCancelled, retries: RetryPolicy
) -> Path:
    """Fetches every file of a repository into `root`; the record's last entry says that it is whole."""
    total, done = sum(remote.size or 0 for remote in remotes), 0
    targets = {remote: inside(root, remote.name) for remote in remotes}
    missing = {remote: target for remote, target in targets.items() if not is_here(remote, target)}
    room.check({target: remote.size or 0 for remote, target in missing.items()}, root.name)
    for remote, target in targets.items():
        if remote in missing:
            report = partial(lambda base, count, _: progress(base + count, total), done)
            fetch(remote, file, target, stamp(target), report, cancelled, retries)
        done += remote.size or 0
    progress(total, total)
    places.write(root, places.WHOLE, {"files": [remote.name for remote in remotes]})
    return root
