"""Plans as text: one plan with a row a phase, many with a row a card."""

from ..base.progress import duration
from .plan import Plan
from .solve import NAMES

MODES = {
    "full": "everything stays on the card",
    "model_cpu_offload": "the models take turns on the card",
    "sequential_cpu_offload": "blocks come from RAM in every step",
}


def table(plan: Plan) -> list[str]:
    """The plan of one card as lines: a row a phase, bytes in GB."""
    job, card = plan.job, plan.card
    taken = (card.total - card.free) / 1e9
    lines = [
        f"{plan.variant} at {job.width}×{job.height} with {job.frames} frames, {job.steps} steps, on {card.name}: {plan.verdict}",
        "",
        f"{'phase':<22} {'where':<5} {'weights':>8} {'activations':>12} {'transient':>10} {'slack':>6} {'peak GB':>8} {'time':>10}",
    ]
    for phase in plan.phases:
        parts = (phase.weights, phase.activations, phase.transient, phase.slack)
        numbers = [f"{part / 1e9:.1f}" for part in parts]
        lines.append(
            f"{NAMES[phase.name]:<22} {phase.where:<5} {numbers[0]:>8} {numbers[1]:>12} {numbers[2]:>10} {numbers[3]:>6} "
            f"{phase.peak / 1e9:>8.1f} {duration(phase.seconds) if phase.seconds else '':>10}"
        )
    lines += [
        "",
        f"card: {card.total / 1e9:.1f} GB, {taken:.1f} GB of them taken by CUDA and other programs; largest peak "
        f"{plan.worst.peak / 1e9:.1f} of {card.free / 1e9:.1f} GB ({NAMES[plan.worst.name]})",
        f"{plan.mode} ({MODES[plan.mode]}), {plan.kept} of {plan.blocks} blocks on the card while sampling, {guidance(plan)}, "
        f"text encoder on the {plan.text_encoder.upper()}, "
        f"{'decode in tiles of ' + str(plan.vae_tile) if plan.vae_tile else 'decode whole'}",
        f"computer: {plan.ram / 1e9:.0f} GB of RAM, {plan.disk / 1e9:.1f} GB to download",
        f"estimates: {duration(plan.seconds)}"
        + (f", ${plan.money:.2f} at ${card.price:.2f} an hour" if plan.money is not None else "")
        + (", corrected by measured runs" if plan.calibrated else ""),
        *([f"auto is {plan.variant}: {plan.reason}"] if plan.reason else []),
        *plan.advice,
    ]
    return lines


def guidance(plan: Plan) -> str:
    """In words: how many branches a step evaluates, and whether at once."""
    if plan.job.branches == 1:
        return "no guidance"
    return f"{plan.job.branches} guidance branches {'in one batch' if plan.batched else 'one by one'}"


def matrix(plans: list[Plan]) -> list[str]:
    """A row a card: for choosing what to rent."""
    job = plans[0].job
    lines = [
        f"{job.width}×{job.height} with {job.frames} frames, {job.steps} steps; times and prices are estimates",
        "batch: guidance branches in one batch, where that is faster and fits with the room that ComfyUI wants to spare",
        f"{'card':<18} {'verdict':<18} {'variant':<22} {'peak':>6} {'of':>6} {'blocks':>7} {'batch':>5} {'tile':>5} {'text':>4} "
        f"{'RAM':>4} {'time':>10} {'price':>6}  why",
    ]
    for plan in plans:
        money = "" if plan.money is None else f"${plan.money:.2f}"
        lines.append(
            f"{plan.card.name:<18} {plan.verdict:<18} {plan.variant:<22} {plan.worst.peak / 1e9:>6.1f} "
            f"{plan.card.free / 1e9:>6.1f} {f'{plan.kept}/{plan.blocks}':>7} {'yes' if plan.batched else 'no':>5} "
            f"{plan.vae_tile or 'no':>5} {plan.text_encoder:>4} {plan.ram / 1e9:>4.0f} {duration(plan.seconds):>10} {money:>6}  "
            f"{reason(plan)}"
        )
    return lines


def reason(plan: Plan) -> str:
    """Why the verdict is as it is: the advice, or what takes most and how much stays free."""
    worst = NAMES[plan.worst.name]
    if plan.advice:
        return " ".join(plan.advice)
    return f"{worst} takes most, and {(plan.card.free - plan.worst.peak) / 1e9:.1f} GB stay free"


def summary(plan: Plan) -> str:
    """The verdict, the time and what to change: what has to be known before the run."""
    about = f", about {duration(plan.seconds)}" if plan.fits and plan.seconds else ""
    return " ".join([f"{plan.variant} {plan.verdict}{about}.", *plan.advice])
