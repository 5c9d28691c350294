"""Fetches model files: profiles, variants or single files, checked and resumable."""

import argparse
import signal
import sys
import threading
from functools import cache, partial
from pathlib import Path

from ..base import environment
from ..base.cancel import Cancelled
from ..base.progress import TerminalLine
from ..base.retry import RetryPolicy
from ..catalog.catalog import ModelFile, catalogue
from ..catalog.names import files_of, profiles_from_environment
from ..loaders.download import hub
from ..loaders.download.errors import DownloadError
from ..loaders.download.fetch import ensure_all, published_file
from ..loaders.download.places import Places, broken
from ..machine import gpus, this_computer
from ..machine.card import computer
from ..planning.choose import choose
from ..planning.solve import Host
from .machine import add_card, add_folders, card_of, finder, host_of, models, state_of, this_host


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("download", help="fetch model files", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="profile|variant|file", help="`cli.py list` shows them")
    parser.add_argument("--from-env", action="store_true", help="also what the ENABLE_… variables ask for")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched (also DRY_RUN=true)")
    parser.add_argument("--jobs", type=int, default=1, help="files fetched at a time; each uses 8 connections")
    add_card(parser, required=False, all_gpus=False)
    add_folders(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when all is there, 130 when it was stopped. What fails raises."""
    names = args.names + (profiles_from_environment() if args.from_env else [])
    if not names:
        if args.from_env:
            print("No ENABLE_… variable is true: nothing to fetch.")
            return 0
        raise ValueError("Nothing was named. Give a profile such as steadydancer; `cli.py list` shows them.")
    if args.jobs < 1:
        raise ValueError("--jobs must be at least 1.")
    gpus.use(state_of(args, gpus.FILE))
    where = models(args)
    files = files_of(names, cache(partial(chosen_variant, args, where)))
    made = [file for file in files if published_file(file, where) is not file]
    files = list(dict.fromkeys(published_file(file, where) for file in files))
    retries = RetryPolicy(timeout=environment.number("DOWNLOAD_TIMEOUT", RetryPolicy.timeout))
    missing = show(files, where, retries)
    if args.dry_run or environment.flag("DRY_RUN") or not missing:
        return how_to_make(made)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        ensure_all(files, where, TerminalLine(), stopped.is_set, args.jobs, retries)
    except Cancelled:
        print("\nStopped. What was fetched is kept for the next time.", file=sys.stderr)
        return 130
    print(f"\nAll {len(files)} files are in {where.models_dir}.")
    return how_to_make(made)


def how_to_make(files: list[ModelFile]) -> int:
    """Says what nobody publishes, and how to make it of what was fetched: this Python may have no torch. Returns 0."""
    for file in files:
        source = next(v for v in catalogue().variants.values() if v.diffusion == (file.made_from,))
        print(
            f"{file.name} is made here: python cli.py convert {source.id} --to {file.precision} (or when it is first loaded)"
        )
    return 0


def chosen_variant(args: argparse.Namespace, where: Places, family: str) -> str:
    """What `auto` is on the card that was named, else on this computer's, and says why."""
    unknown = ""
    if args.gpu or args.vram is not None or args.sm:
        card, host = card_of(args), host_of(args, where)
    else:
        try:
            card, host = this_computer.present_card(), this_host(where)
        except this_computer.NoCard as err:
            card, host, unknown = computer(), Host(), f" ({err}; --gpu or --vram names one)"
    choice = choose(family, card, finder(where), host=host)
    if choice.refusal:
        raise ValueError(choice.refusal)
    print(f"{family}: auto is {choice.variant} for {card.name}: {choice.reason}{unknown}")
    return choice.variant


def show(files: list[ModelFile], where: Places, retries: RetryPolicy) -> int:
    """Prints the plan and returns how many files are missing or broken. The publisher is asked for sizes the catalogue
    lacks."""
    sizes: dict[str, list[tuple[int, bool]]] = {"missing": [], "broken": [], "present": []}
    print(f"{'file':<58} {'bytes':>16}  state")
    for file in files:
        path = where.find(file)
        wrong = broken(path, file) if path else ""
        if path is None:
            state, size, sure = "missing", *published_size(file, retries)
        elif wrong:
            state, size, sure = "broken", file.size, file.bytes is not None
        else:
            state, size, sure = "present", bytes_of(path), True
        sizes[state].append((size, sure))
        name = path.name if path else file.name or f"{file.id} (name from the listing)"
        why = f": {path}: it {wrong}" if wrong else ""
        source = "" if state == "present" else f", from {file.sources[0].where}"
        print(f"{file.folder + '/' + name:<58} {said(size, sure):>16}  {state}{why}{source}")
    total = {state: said(sum(n for n, _ in found), all(sure for _, sure in found)) for state, found in sizes.items()}
    missing, again = len(sizes["missing"]), len(sizes["broken"])
    more = f"; {again} broken, {total['broken']} bytes to fetch again" if again else ""
    print(f"{missing} of {len(files)} files to fetch, {total['missing']} bytes, into {where.models_dir}{more}")
    return missing + again


def said(size: int, sure: bool) -> str:
    """A count of bytes as it is shown; `sure` where the publisher states it."""
    return f"{size:,}" if sure else f"about {size:,}"


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def published_size(file: ModelFile, retries: RetryPolicy) -> tuple[int, bool]:
    """Bytes of a file that is not here, and whether somebody states them."""
    if file.bytes:
        return file.bytes, True
    if not hub.offline():
        quick = RetryPolicy(attempts=1, timeout=min(10.0, retries.timeout))
        try:
            remotes = hub.resolve(file, file.sources[0], quick, lambda: False)
            return sum(remote.size or 0 for remote in remotes), all(remote.size is not None for remote in remotes)
        except DownloadError as err:
            print(f"  {err}", file=sys.stderr)
    return file.size, False
