"""Says which variant of a model suits a card, and why."""

import argparse

from ..catalog.catalog import Variant, catalogue
from ..planning import selector
from .download import add_models_dir, known_models


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("select", help="choose a variant for a GPU", description=__doc__)
    parser.add_argument("--family", choices=selector.families(), default="steadydancer")
    parser.add_argument("--preference", choices=("auto", *selector.PREFERENCES), default="auto")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--gpu", help="a card by name, such as 'RTX 4090'")
    which.add_argument("--all-gpus", action="store_true", help="the table of all cards")
    add_models_dir(parser)
    return parser


def run(args) -> int:
    where = known_models(args)

    def here(variant: Variant) -> bool:
        return where is not None and all(where.find(catalogue().files[file]) for file in variant.diffusion)

    if args.gpu:
        choice = selector.select(args.family, selector.card(args.gpu), args.preference, here)
        print(f"{choice.variant}\n{choice.reason}")
        return 0
    for line in table(args.family, args.preference):
        print(line)
    return 0


def table(family: str, preference: str) -> list[str]:
    """A line for each card: what it may use, the choice, decimal GB of weights, on the card and working."""
    lines = [f"{'card':<18} {'GB':>6}  {'variant':<28} {'weights':>7} {'in RAM':>7} {'work':>5}  why"]
    for card in selector.cards():
        choice = selector.select(family, card, preference)
        numbers = f"{choice.weights:>7.1f} {choice.streamed:>7.1f} {choice.working:>5.1f}"
        lines.append(f"{card.name:<18} {card.gb:>6.1f}  {choice.variant:<28} {numbers}  {choice.reason}")
    return lines
