"""Checks the catalogue's files that are here against their published hashes, as far as these are known."""

import argparse
from pathlib import Path

from ..catalog.catalog import ModelFile, catalogue
from ..catalog.names import files_of
from ..loaders.download import places
from ..loaders.download.places import damage, file_hash, record, recorded
from .machine import add_models_dir, models, what_auto_is


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("verify", help="check files that are here", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="profile|variant|file", help="default: whatever is here")
    parser.add_argument("--trust", action="store_true", help="accept these files as they are: they are my own")
    add_models_dir(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when every named file is here and whole, 1 otherwise."""
    where = models(args)
    whole, total, failures = 0, 0, 0
    for file in (
        files_of(args.names, lambda family: what_auto_is(family, where)) if args.names else catalogue().files.values()
    ):
        path = where.find(file)
        if path is None:
            if args.names:
                failures += 1
                print(f"missing  {file.folder}/{file.name or file.id}")
            continue
        try:
            size, reason = checked(path, file, args.trust)
        except OSError as err:
            size, reason = 0, f"cannot be read ({err.strerror})"
        if reason:
            failures += 1
            print(f"damaged  {size:>16,}  {path}: it {reason}")
        else:
            whole, total = whole + 1, total + size
            print(f"ok       {size:>16,}  {path}")
    print(f"{whole} whole, {total:,} bytes; {failures} damaged or missing")
    return 1 if failures else 0


def checked(path: Path, file: ModelFile, trust: bool) -> tuple[int, str]:
    """Bytes of a file or snapshot folder, and what is wrong with it. Raises OSError where it cannot be read."""
    if file.format == "folder":
        return sum((path / name).stat().st_size for name in places.read(path)[places.WHOLE]["files"]), ""
    if trust and path.is_file():
        record(path, "", trusted=True)
    reason = damage(path, file, quiet, never)
    return path.stat().st_size if path.is_file() else 0, reason or changed(path)


def changed(path: Path) -> str:
    """Whether the bytes are no longer those that were hashed when the file was fetched."""
    entry = recorded(path)
    if entry.get("trusted") or not entry:
        return ""
    return "" if file_hash(path, quiet, never) == entry["sha256"] else "has changed on the disk since it was fetched"


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""
    pass


def never() -> bool:
    """A cancel that does not come."""
    return False
