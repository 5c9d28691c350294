"""Plans a job: `auto` becomes the variant that is chosen for the card, and the solver decides how to run it."""

from dataclasses import replace

from ..machine.card import Card
from .calibration import Calibration
from .choose import choose
from .job import Find, check, download, files, plan_variant
from .model_sizes import architecture_of
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
    plan = planned(job, card, find, calibration, host)
    if choice and not plan.fits:
        other = choose("steadydancer", card, find, job, host=host)
        if other.plan.fits and other.variant != job.variant:
            choice, job = other, replace(job, variant=other.variant)
            plan = planned(job, card, find, calibration, host)
    lines = [*plan.advice, *(f"ComfyUI has no flag {flag}: take it out." for flag in MISSING_FLAGS if flag in flags())]
    return replace(plan, advice=tuple(lines), reason=choice.reason if choice else "")


def planned(job: Job, card: Card, find: Find, calibration: Calibration | None, host: Host) -> Plan:
    """The plan of the job's own variant on this server, by what is here and what was measured."""
    paths, host = files(job.variant, find), replace(host, download=download(job.variant, find))
    corrections = calibration.corrections(architecture_of(job.variant), card) if calibration else {}
    return plan_variant(job, reserved(card), paths, corrections, host, forced())
