"""Fetches model files: profiles, variants or single files, checked and resumable."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from .. import environment
from ..catalog.catalog import ModelFile
from ..catalog.names import files_of, profiles_from_environment
from ..loaders import hub
from ..loaders.download import ensure_all
from ..loaders.errors import DownloadCancelled, DownloadError
from ..loaders.extra_paths import extra_folders
from ..loaders.places import Places, broken
from ..loaders.transfer import Patience
from ..progress import TerminalLine
from . import comfyui


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("download", help="fetch model files", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="profile|variant|file", help="`cli.py list` shows them")
    parser.add_argument("--from-env", action="store_true", help="also what the ENABLE_… variables ask for")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched (also DRY_RUN=true)")
    parser.add_argument("--jobs", type=int, default=1, help="files fetched at a time; each uses 8 connections")
    add_models_dir(parser)
    return parser


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models-dir", type=Path, help="default: MODELS_DIR, else the models folder of this ComfyUI")
    parser.add_argument("--comfyui", type=Path, help="the ComfyUI whose models and extra_model_paths.yaml are meant")


def models(args) -> Places:
    """Where the models are. Raises ValueError where nothing says it."""
    found = known_models(args)
    if found is None:
        raise ValueError(
            "Where the models belong is not known here. Give --models-dir or --comfyui, or set MODELS_DIR."
        )
    return found


def known_models(args) -> Places | None:
    """The models folder as asked, as the environment says, or of the ComfyUI that this package is installed in; and the
    folders that this ComfyUI's extra_model_paths.yaml adds. None where nothing says it."""
    if args.comfyui and not (args.comfyui / "main.py").is_file():
        raise ValueError(f"There is no ComfyUI in {args.comfyui}: it has no main.py. Give the folder that has.")
    base, flags = args.comfyui or comfyui(), server_flags()
    extra = [path for path in [base and base / "extra_model_paths.yaml"] if path and path.is_file()]
    extra += [Path(path) for paths in flags.extra_model_paths_config for path in paths]
    found = [entry for path in extra for entry in extra_folders(path)]
    named = args.models_dir or (environment.text("MODELS_DIR") if not args.comfyui else "")
    if named:  # what is fetched goes there, whatever is_default says
        return Places(Path(named).expanduser(), [(kind, path, False) for kind, path, _ in found])
    if flags.models_directory or flags.base_directory:
        return Places(flags.models_directory or flags.base_directory / "models", found)
    return Places(base / "models", found) if base else None


def server_flags() -> argparse.Namespace:
    """Those of ComfyUI's flags in COMFYUI_ARGS that say where models are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base-directory", type=Path)
    parser.add_argument("--models-directory", type=Path)
    parser.add_argument("--extra-model-paths-config", nargs="+", action="append", default=[])
    return parser.parse_known_args(environment.text("COMFYUI_ARGS").split())[0]


def run(args) -> int:
    names = args.names + (profiles_from_environment() if args.from_env else [])
    if not names:
        if args.from_env:
            print("No ENABLE_… variable is true: nothing to fetch.")
            return 0
        raise ValueError("Nothing was named. Give a profile such as steadydancer; `cli.py list` shows them.")
    if args.jobs < 1:
        raise ValueError("--jobs must be at least 1.")
    files, where = files_of(names), models(args)
    patience = Patience(timeout=environment.number("DOWNLOAD_TIMEOUT", Patience.timeout))
    missing = show(files, where, patience)
    if args.dry_run or environment.flag("DRY_RUN") or not missing:
        return 0
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        ensure_all(files, where, TerminalLine(), stopped.is_set, args.jobs, patience)
    except DownloadCancelled:
        print("\nStopped. What was fetched is kept for the next time.", file=sys.stderr)
        return 130
    print(f"\nAll {len(files)} files are in {where.models_dir}.")
    return 0


def show(files: list[ModelFile], where: Places, patience: Patience) -> int:
    """Prints the plan and returns how many files are missing or broken. The publisher is asked for sizes the catalogue
    lacks."""
    sizes: dict[str, list[tuple[int, bool]]] = {"missing": [], "broken": [], "present": []}
    print(f"{'file':<58} {'bytes':>16}  state")
    for file in files:
        path = where.find(file)
        wrong = broken(path, file) if path else ""
        if path is None:
            state, size, sure = "missing", *published_size(file, patience)
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
    return f"{size:,}" if sure else f"about {size:,}"


def bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def published_size(file: ModelFile, patience: Patience) -> tuple[int, bool]:
    """Bytes of a file that is not here, and whether somebody states them."""
    if file.bytes:
        return file.bytes, True
    if not hub.offline():
        quick = Patience(attempts=1, timeout=min(10.0, patience.timeout))
        try:
            remotes = hub.resolve(file, file.sources[0], quick, lambda: False)
            return sum(remote.size or 0 for remote in remotes), all(remote.size is not None for remote in remotes)
        except DownloadError as err:
            print(f"  {err}", file=sys.stderr)
    return file.size, False
