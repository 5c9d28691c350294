"""Says before a run whether it fits a GPU, what it peaks at in each phase, what to change, how long it takes and what it costs.

Times and prices are estimates: of rates and prices in machine/gpus.toml, which __steadydancer/gpus.toml in ComfyUI's user
folder overrides.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from ..catalog.catalog import catalogue
from ..machine import gpus
from ..planning.calibration import FILE, Calibration
from ..planning.job import job_for
from ..planning.model_sizes import lora_bytes, plannable
from ..planning.plan import Plan
from ..planning.planner import plan_job
from ..planning.report import matrix, table
from .machine import add_card, add_folders, cards_of, finder, host_of, models_if_known, state_of


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("plan", help="does a job fit a GPU?", description=__doc__)
    parser.add_argument("--family", default="steadydancer", choices=families())
    parser.add_argument("--variant", default="auto", help="fp8, Q4_K_M, … of the family, or a file (default: auto)")
    parser.add_argument("--size", default="832x480", help="WIDTHxHEIGHT in pixels (default: 832x480)")
    parser.add_argument("--frames", type=int, default=81, help="of one video (default: 81)")
    parser.add_argument("--steps", type=int, help="default: what the model usually takes")
    parser.add_argument(
        "--branches", type=int, choices=(1, 2, 3), help="guidance branches: 1 none, 2 text, 3 text and pose"
    )
    parser.add_argument("--turbo", action="store_true", help="with the 4-step LoRA")
    parser.add_argument(
        "--lora", type=Path, action="append", default=[], help="a LoRA file that is used; may be repeated"
    )
    which = add_card(parser)
    which.add_argument("--reset-calibration", action="store_true", help="forget what runs have measured")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument("--chart", type=Path, help="draw the plan of one card into this PNG (needs numpy and Pillow)")
    add_folders(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when the job fits a card, 3 when it fits none."""
    where = models_if_known(args)
    gpus.use(state_of(args, gpus.FILE))
    calibration = Calibration(state_of(args, FILE))
    if args.reset_calibration:
        print(f"Forgot {calibration.reset()} measurements of {calibration.path}.")
        return 0
    job = job_for(variant_id(args), *size(args.size), args.frames, args.turbo, steps=args.steps, branches=args.branches)
    job = replace(job, lora_bytes=job.lora_bytes + lora_bytes(args.lora))
    find, host = finder(where), host_of(args, where)
    plans = [plan_job(job, card, find, calibration, host) for card in cards_of(args)]
    one = None if args.all_gpus else plans[0]
    if args.chart and one:
        save_chart(one, args.chart)
    if args.json:
        print(one.to_json() if one else "[" + ",\n".join(plan.to_json() for plan in plans) + "]")
    else:
        print("\n".join(table(one) if one else matrix(plans)))
    return 0 if any(plan.fits for plan in plans) else 3


def save_chart(plan: Plan, path: Path) -> None:
    """Draws a plan into a PNG. Raises ValueError without numpy or Pillow."""
    try:
        from PIL import Image

        from ..planning.chart import draw
    except ModuleNotFoundError as err:
        raise ValueError(f"--chart needs {err.name}. Install it, or run this with ComfyUI's Python.") from err
    Image.fromarray(draw(plan)).save(path)


def variant_id(args: argparse.Namespace) -> str:
    """The variant or file that --variant means. Raises ValueError for a name that the family does not have."""
    if args.variant == "auto" and args.family != "steadydancer":
        raise ValueError(f"Say which variant of {args.family}: one of {', '.join(of_family(args.family))}.")
    if args.variant == "auto" or "/" in args.variant or Path(args.variant).is_file():
        return args.variant
    requested = f"{args.family}/{args.variant}".lower()
    known = next((variant for variant in plannable() if variant.lower() == requested), None)
    if known is None:
        raise ValueError(
            f"{args.family} has no variant '{args.variant}'. Choose one of {', '.join(of_family(args.family))}."
        )
    return known


def families() -> list[str]:
    """The families that can be planned, in catalogue order."""
    return list(dict.fromkeys(catalogue().variants[variant].family for variant in plannable()))


def of_family(family: str) -> list[str]:
    """The family's variants: without its name where that begins them all."""
    return [v.removeprefix(family + "/") for v in plannable() if catalogue().variants[v].family == family]


def size(text: str) -> tuple[int, int]:
    """832x480 as (832, 480). Raises ValueError for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"'{text}' is not a size; write WIDTHxHEIGHT, such as 832x480.")
    return int(parts[0]), int(parts[1])
