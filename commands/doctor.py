"""Looks whether this machine is fit: software, card, memory, disk, network, bucket, models. Each line says what to do."""

import argparse
import json
from dataclasses import asdict

from ..machine import gpus
from .checks import BAD, GOOD, LOOK, PARTS, Finding, check
from .machine import add_folders, state_of

EXIT = {part: 10 + number for number, part in enumerate(PARTS)}  # of the first part that is bad
MARKS = {GOOD: "ok  ", LOOK: "look", BAD: "BAD "}


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("doctor", help="look whether this machine is fit", description=__doc__)
    parser.add_argument("profile", nargs="?", default="steadydancer", help="what is to be run (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--skip", action="append", default=[], choices=PARTS, help="leave a part out (several times)")
    add_folders(parser)
    parser.epilog = "Exit codes: 0 fit; " + ", ".join(f"{code} {part}" for part, code in EXIT.items())
    return parser


def run(args: argparse.Namespace) -> int:
    """0 where nothing is bad, else the code of the first part that is. No secret is printed."""
    gpus.use(state_of(args, gpus.FILE))
    found: list[Finding] = []
    for part in PARTS:
        for finding in check(part, args) if part not in args.skip else ():
            found.append(finding)
            if not args.json:
                show(finding)
    bad = [finding for finding in found if finding.verdict == BAD]
    if args.json:
        print(json.dumps({"fit": not bad, "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        print(f"\n{f'{len(bad)} of {len(found)} lines are bad.' if bad else 'This machine is fit.'}")
    return EXIT[bad[0].part] if bad else 0


def show(finding: Finding) -> None:
    """One line, and what to do below it."""
    print(f"{MARKS[finding.verdict]}  {finding.part:<9} {finding.what:<16} {finding.found}", flush=True)
    if finding.advice:
        print(f"      {'':<26} → {finding.advice}", flush=True)
