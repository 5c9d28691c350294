"""Checks the catalogue's files that are here against their published hashes, as far as these are known."""

import argparse

from ..catalog.catalog import catalogue
from ..catalog.names import files_of
from ..loaders import places
from ..loaders.places import damage, file_hash, record, recorded
from .machine import add_models_dir, models, what_auto_is


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("verify", help="check files that are here", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="profile|variant|file", help="default: whatever is here")
    parser.add_argument("--trust", action="store_true", help="accept these files as they are: they are my own")
    add_models_dir(parser)
    return parser


def run(args) -> int:
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
        if path.is_dir():
            names = places.read(path)[places.WHOLE]["files"]
            size = sum((path / name).stat().st_size for name in names)
            print(f"ok       {size:>16,}  {path}, {len(names)} files")
            whole, total = whole + 1, total + size
            continue
        if args.trust:
            record(path, "", trusted=True)
        reason = damage(path, file, quiet, never) or changed(path)
        size = path.stat().st_size
        if reason:
            failures += 1
            print(f"damaged  {size:>16,}  {path}: it {reason}")
        else:
            whole, total = whole + 1, total + size
            print(f"ok       {size:>16,}  {path}")
    print(f"{whole} whole, {total:,} bytes; {failures} damaged or missing")
    return 1 if failures else 0


def changed(path) -> str:
    """Whether the bytes are no longer those that were hashed when the file was fetched."""
    entry = recorded(path)
    if entry.get("trusted") or not entry:
        return ""
    return "" if file_hash(path, quiet, never) == entry["sha256"] else "has changed on the disk since it was fetched"


def quiet(done: int, total: int) -> None:
    pass


def never() -> bool:
    return False
