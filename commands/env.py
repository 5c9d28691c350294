"""Shows the environment variables that this package knows, and which of them are set."""

import argparse

from ..base import environment
from ..base.variables import GROUPS


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("env", help="show the environment variables and which are set", description=__doc__)
    parser.add_argument("--set", action="store_true", help="only those that are set")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints every variable with its value or default; of secrets only that they are set. 0."""
    for group in GROUPS:
        rows = [(variable, environment.text(variable.name)) for variable in group.variables]
        rows = [row for row in rows if row[1] or not args.set]
        if rows:
            print(f"\n{group.title}")
        for variable, value in rows:
            shown = (
                "(set, not shown)"
                if value and variable.kind == "secret"
                else value or f"({variable.default or 'unset'})"
            )
            print(f"  {variable.name:<30} {shown:<24} {variable.help}")
    return 0
