"""Says which variant of a model suits a card, and why: what the loaders, the planner and downloads take for auto."""

import argparse

from ..catalog.catalog import catalogue
from ..machine import gpus
from ..machine.card import Card
from ..planning import choose
from ..planning.job import Find
from .machine import add_card, add_folders, cards_of, finder, host_of, models_if_known, state_of


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("select", help="choose a variant for a GPU", description=__doc__)
    parser.add_argument("--family", choices=choose.families(), default="steadydancer")
    parser.add_argument("--preference", choices=("auto", *choose.PREFERENCES), default="auto")
    add_card(parser)
    add_folders(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the choice for a card, or the table of all. 0; raises ValueError where nothing suits."""
    gpus.use(state_of(args, gpus.FILE))
    where = models_if_known(args)
    find, host, cards = finder(where), host_of(args, where), cards_of(args)
    if args.all_gpus:
        print("\n".join(table(args.family, args.preference, cards, find)))
        return 0
    choice = choose.choose(args.family, cards[0], find, preference=args.preference, host=host)
    if choice.refusal:
        raise ValueError(choice.refusal)
    print(f"{choice.variant}\n{choice.reason}")
    return 0


def table(family: str, preference: str, cards: list[Card], find: Find = lambda file: None) -> list[str]:
    """A line for each card: what it may use, the choice, decimal GB of its weights, blocks on the card, and why."""
    lines = [f"{'card':<18} {'GB':>6}  {'variant':<29} {'weights':>7} {'blocks':>7}  why"]
    for card in cards:
        choice = choose.choose(family, card, find, preference=preference)
        size = choose.weights(catalogue().variants[choice.variant]) / 1e9
        kept = f"{choice.plan.kept}/{choice.plan.blocks}"
        why = choice.refusal or choice.reason
        lines.append(f"{card.name:<18} {card.free / 1e9:>6.1f}  {choice.variant:<29} {size:>7.1f} {kept:>7}  {why}")
    return lines
