"""Lists what can be fetched: profiles, variants with their sizes, and what is already here."""

import argparse

from ..catalog.catalog import catalogue
from ..catalog.names import files_of
from .machine import add_models_dir, models, what_auto_is


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("list", help="show profiles and variants", description=__doc__)
    parser.add_argument("family", nargs="?", help="only this family, with its files")
    add_models_dir(parser)
    return parser


def run(args) -> int:
    book = catalogue()
    try:
        where = models(args)
    except ValueError:
        where = None  # a list is useful anywhere
    if args.family and args.family not in book.families:
        raise ValueError(f"There is no family '{args.family}'. There are {', '.join(book.families)}.")
    if args.family:
        print(f"{'file':<44} {'GB':>7}  {'here':<5} {'licence':<14} name")
        for file in book.files.values():
            if file.family == args.family:
                here = "yes" if where and where.find(file) else ""
                name = f"{file.folder}/{file.name or file.patterns[0]}"
                print(f"{file.id:<44} {file.size / 1e9:>7.2f}  {here:<5} {file.licence:<14} {name}")
        print()
    else:
        print(f"{'profile':<44} {'GB':>7}  {'here':<5} what it is")
        for profile in book.profiles.values():
            row(profile.name, profile.name, profile.title, where)
        print()
    print(f"{'variant':<44} {'GB':>7}  {'here':<5} what it is")
    for variant in book.variants.values():
        if args.family in (None, variant.family):
            family = book.families[variant.family]
            row(variant.id, variant.id, variant.title + ("" if family.loader else " (download only)"), where)
    files = [file for file in book.files.values() if args.family in (None, file.family)]
    here = [file for file in files if where and where.find(file)]
    print(f"\n{len(files)} files, {gigabytes(files):.1f} GB; {len(here)} of them here, {gigabytes(here):.1f} GB")
    return 0


def gigabytes(files) -> float:
    """What the catalogue says of the files' size, its estimates among it."""
    return sum(file.size for file in files) / 1e9


def row(label: str, name: str, title: str, where) -> None:
    files = files_of([name], lambda family: what_auto_is(family, where))
    here = "yes" if where and all(where.find(file) for file in files) else ""
    print(f"{label:<44} {gigabytes(files):>7.1f}  {here:<5} {title}")
