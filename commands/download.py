"""Fetches model files, checked and resumable: profiles, variants, single files, or what a workflow names."""

import argparse
import signal
import sys
import threading
from functools import cache, partial
from pathlib import Path

from ..base import environment
from ..base.cancel import Cancelled
from ..base.progress import TerminalLine, duration
from ..base.retry import RetryPolicy
from ..catalog.catalog import ModelFile, catalogue
from ..catalog.names import files_of, profiles_from_environment, unanswered
from ..loaders.download import hub, workflow
from ..loaders.download.errors import DownloadError, NotThere, printable
from ..loaders.download.fetch import ensure_all, published_file
from ..loaders.download.places import Places, bytes_of
from ..machine import gpus, this_computer
from ..machine.card import computer
from ..planning.choose import choose
from ..planning.solve import Host
from .machine import add_card, add_folders, card_of, finder, host_of, models, state_of, this_host

RATES = {"100 Mbit/s": 1e8, "1 Gbit/s": 1e9, "10 Gbit/s": 1e10}  # of a line, bits a second


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("download", help="fetch model files", description=__doc__)
    what = "`cli.py list` shows them; a workflow or API prompt by its file: its models"
    parser.add_argument("names", nargs="*", metavar="profile|variant|file|FLOW.json", help=what)
    template = "the models of a template of ComfyUI's or of this package (several times: of several)"
    parser.add_argument("--template", action="append", default=[], metavar="NAME", help=template)
    parser.add_argument("--from-env", action="store_true", help="also what the ENABLE_… variables ask for")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched (also DRY_RUN=true)")
    other = "take this variant in place of a GGUF file that its publisher does not have"
    parser.add_argument("--or", dest="other", metavar="fp8", help=other)
    parser.add_argument("--jobs", type=int, default=1, help="files fetched at a time; each uses 8 connections")
    add_card(parser, required=False, all_gpus=False)
    add_folders(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when all is there, 130 when it was stopped. What fails raises."""
    names = args.names + (profiles_from_environment() if args.from_env else [])
    for name, what in (unanswered() if args.from_env else {}).items():
        print(f"{name} is true, but {what}.", file=sys.stderr)
    if not names and not args.template:
        if args.from_env:
            print("No ENABLE_… variable of a profile is true: nothing to fetch.")
            return 0
        raise ValueError("Nothing was named. Give a profile such as steadydancer; `cli.py list` shows them.")
    if args.jobs < 1:
        raise ValueError("--jobs must be at least 1.")
    gpus.use(state_of(args, gpus.FILE))
    where = models(args)
    auto = cache(partial(chosen_variant, args, where))
    flows = [Path(name) for name in names if name.endswith(".json")] + list(map(workflow.template, args.template))
    found = [workflow.named(workflow.read(path), auto) for path in flows]
    chosen = files_of([name for name in names if not name.endswith(".json")], auto)
    named = (*(file for flow in found for file in flow.files), *chosen)  # the catalogue's own come last and win
    files = list({workflow.place(file): file for file in named}.values())
    if args.other:
        files = with_other(files, args.other, where)
    if not files and not any(flow.left or flow.off for flow in found):
        print("Its nodes name no model files: nothing to fetch.")
        return 0
    made = [file for file in files if published_file(file, where) is not file]
    files = list(dict.fromkeys(published_file(file, where) for file in files))
    retries = RetryPolicy(timeout=environment.number("DOWNLOAD_TIMEOUT", RetryPolicy.timeout))
    missing = show(files, where, retries)
    left = show_rest(found, where)
    if args.dry_run or environment.flag("DRY_RUN") or not missing:
        show_how_to_make(made)
        return 1 if left else 0
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        ensure_all(files, where, TerminalLine(), stopped.is_set, args.jobs, retries)
    except Cancelled:
        print("\nStopped. What was fetched is kept for the next time.", file=sys.stderr)
        return 130
    print(f"\nAll {len(files)} files are in {where.models_dir}." + (f" {left} more cannot be fetched." if left else ""))
    show_how_to_make(made)
    return 1 if left else 0


def with_other(files: list[ModelFile], other: str, where: Places) -> list[ModelFile]:
    """The files, each GGUF file that is neither here nor published replaced by those of the family's variant `other`."""
    found: dict[str, ModelFile] = {}
    for file in files:
        taken = [file]
        if file.format == "gguf" and not where.find(file) and not hub.offline():
            try:
                hub.resolve(file, file.sources[0], RetryPolicy(attempts=1, timeout=10.0), lambda: False)
            except NotThere as err:
                taken = files_of([f"{file.family}/{other}"], str)
                print(f"ATTENTION: {err} Taking {file.family}/{other} in its place.", file=sys.stderr)
            except DownloadError:
                pass  # not the file's fault: the download will say
        found |= {workflow.place(file): file for file in taken}
    return list(found.values())


def show_rest(found: list[workflow.Named], where: Places) -> int:
    """Prints what workflows name and nobody fetches. Returns how many names the user must see to."""
    for name in dict.fromkeys(name for flow in found for name in flow.off):
        print(f"not needed: {name}: only muted or bypassed nodes name it")
    left = {entry.name: entry for flow in found for entry in workflow.still_left(flow.left, where)}
    for entry in left.values():
        print(f"not fetched: {printable(entry.name)} {entry.why}.", file=sys.stderr)
    return len(left)


def show_how_to_make(files: list[ModelFile]) -> None:
    """Says what nobody publishes, and how to make it of what was fetched: this Python may have no torch."""
    for file in files:
        source = next(v for v in catalogue().variants.values() if v.diffusion == (file.made_from,))
        print(
            f"{file.name} is made here: python cli.py convert {source.id} --to {file.precision} (or when it is first loaded)"
        )


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
        path, wrong = where.look(file)
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
    total = {state: in_all(found) for state, found in sizes.items()}
    missing, again = len(sizes["missing"]), len(sizes["broken"])
    more = f"; {again} broken, {total['broken']} bytes to fetch again" if again else ""
    print(f"{missing} of {len(files)} files to fetch, {total['missing']} bytes, into {where.models_dir}{more}")
    count = sum(size for state in ("missing", "broken") for size, _ in sizes[state])
    if count:
        times = (f"{duration(max(1, count * 8 / bits))} at {name}" for name, bits in RATES.items())
        print(f"about {', '.join(times)}")
    return missing + again


def said(size: int, sure: bool) -> str:
    """A count of bytes as it is shown; `sure` where the publisher states it."""
    return f"{size:,}" if sure else f"about {size:,}" if size else "unknown"


def in_all(sizes: list[tuple[int, bool]]) -> str:
    """The sum of counts of bytes, each with whether somebody states it."""
    known = said(sum(size for size, _ in sizes), all(sure for _, sure in sizes))
    return f"more than {known.removeprefix('about ')}" if known != "unknown" and (0, False) in sizes else known


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
