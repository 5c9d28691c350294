"""Lists what can be fetched: profiles, variants with their sizes, and what is already here."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from ..catalog.catalog import ModelFile, catalogue
from ..catalog.names import files_of
from ..loaders.download.places import Places, broken
from .machine import add_models_dir, models_if_known, what_auto_is


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("list", help="show profiles and variants", description=__doc__)
    parser.add_argument("family", nargs="?", help="only this family, with its files")
    add_models_dir(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the tables. 0."""
    book = catalogue()
    where = models_if_known(args)
    paths = {file.id: where.find(file) if where else None for file in book.files.values()}
    states = {id: state(path, book.files[id]) for id, path in paths.items()}
    if args.family and args.family not in book.families:
        raise ValueError(f"There is no family '{args.family}'. There are {', '.join(book.families)}.")
    if args.family:
        print(f"{'file':<44} {'GB':>7}  {'here':<6} {'licence':<14} name")
        for file in book.files.values():
            if file.family == args.family:
                word, name = states[file.id], f"{file.folder}/{file.name or file.patterns[0]}"
                print(f"{file.id:<44} {file.size / 1e9:>7.2f}  {word:<6} {file.licence:<14} {name}")
        print()
    else:
        print(f"{'profile':<44} {'GB':>7}  {'here':<6} what it is")
        for profile in book.profiles.values():
            row(profile.name, profile.title, states, where)
        print()
    print(f"{'variant':<44} {'GB':>7}  {'here':<6} what it is")
    for variant in book.variants.values():
        if args.family in (None, variant.family):
            family = book.families[variant.family]
            row(variant.id, variant.title + ("" if family.loader else " (download only)"), states, where)
    files = [file for file in book.files.values() if args.family in (None, file.family)]
    here = [file for file in files if paths[file.id]]
    print()
    for file in here:
        path = paths[file.id]
        if path and states[file.id] == "broken":
            print(f"broken: {path}: it {broken(path, file)}")
    print(f"{len(files)} files, {gigabytes(files):.1f} GB; {len(here)} of them here, {gigabytes(here):.1f} GB")
    return 0


def state(path: Path | None, file: ModelFile) -> str:
    """`yes` for a file that is here, `broken` where its size or header is wrong; cli.py verify reads all of it."""
    return "" if path is None else "broken" if broken(path, file) else "yes"


def gigabytes(files: Iterable[ModelFile]) -> float:
    """What the catalogue says of the files' size, its estimates among it."""
    return sum(file.size for file in files) / 1e9


def row(name: str, title: str, states: dict[str, str], where: Places | None) -> None:
    """Prints one profile or variant: here when all its files are."""
    files = files_of([name], lambda family: what_auto_is(family, where))
    here = {states[file.id] for file in files}
    word = "broken" if "broken" in here else "yes" if here == {"yes"} else ""
    print(f"{name:<44} {gigabytes(files):>7.1f}  {word:<6} {title}")
