"""Plans a job: `auto` becomes the variant that is chosen for the card, and the solver decides how to run it."""

from dataclasses import replace

from ..machine.card import Card
from .calibration import Calibration
from .choose import choose
from .job import Find, check, plan_variant
from .plan import Job, Plan
from .rules import flags, forced, reserved
from .solve import Host

MISSING_FLAGS = ("--medvram", "--normalvram", "--cpu-text-encoder", "--cpu-text-enc")


def plan_job(
    job: Job,
    card: Card,
    find: Find = lambda file: None,
    calibration: Calibration | None = None,
    host: Host = Host(),  # noqa: B008 - frozen
) -> Plan:
    """The plan for a job; `auto` as the job's variant is what planning/choose.py says.

    `find` gives the path of a catalogue file id, or of a user's own file name, None where it is not here.
    Raises ValueError for a job that cannot be, an unknown variant, or a damaged file.
    """
    check(job)
    choice = choose("steadydancer", card, find, host=host) if job.variant == "auto" else None
    if choice:
        job = replace(job, variant=choice.variant)
    plan = plan_variant(job, reserved(card), find, calibration, host, forced())
    if choice and not plan.fits:  # by its size in the file, at this job's size, with what was measured
        other = choose("steadydancer", card, find, job, host=host, calibration=calibration)
        if other.plan.fits and other.variant != job.variant:
            choice, job = other, replace(job, variant=other.variant)
            plan = plan_variant(job, reserved(card), find, calibration, host, forced())
    lines = [*plan.advice, *(f"ComfyUI has no flag {flag}: take it out." for flag in MISSING_FLAGS if flag in flags())]
    return replace(plan, advice=tuple(lines), reason=choice.reason if choice else "")
