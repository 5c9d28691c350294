"""A plan as a picture: a bar for each phase against the card's line."""

import numpy as np

from ..base.progress import duration
from .plan import DOES_NOT_FIT, Plan
from .solve import NAMES

WIDTH, MARGIN, LABELS, VALUES = 960, 24, 190, 110
ROW, BAR, HEAD, FOOT = 44, 26, 84, 92
PARTS = (
    ("weights", (52, 104, 172)),
    ("activations", (226, 138, 42)),
    ("transient", (72, 150, 110)),
    ("slack", (168, 172, 180)),
)
# A light panel of its own, so that it reads the same on a light and on a dark canvas.
PANEL, INK, FAINT, LINE, GOOD, BAD = (
    (247, 247, 244), (36, 38, 42), (110, 114, 122), (186, 32, 48), (36, 122, 70), (186, 32, 48),
)  # fmt: skip


def draw(plan: Plan) -> np.ndarray:
    """The plan, uint8 [height, 960, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    shown = [phase for phase in plan.phases if phase.where == "gpu"]
    height = HEAD + ROW * len(shown) + FOOT
    image = Image.new("RGB", (WIDTH, height), PANEL)
    pen = ImageDraw.Draw(image)
    text, small, large = (ImageFont.load_default(size) for size in (17, 15, 21))
    job, card = plan.job, plan.card
    left, right = MARGIN + LABELS, WIDTH - MARGIN - VALUES
    scale = (right - left) / (1.04 * max(card.free, *(phase.peak for phase in shown)))
    pen.text((MARGIN, 16), f"{plan.variant} on {card.name}: ", INK, large)
    start = MARGIN + pen.textlength(f"{plan.variant} on {card.name}: ", large)
    pen.text((start, 16), plan.verdict, BAD if plan.verdict == DOES_NOT_FIT else GOOD, large)
    line = f"{job.width} x {job.height}, {job.frames} frames, {job.steps} steps"  # the font has no multiplication sign
    if plan.fits:
        line += f"; about {duration(plan.seconds)}" + (f" and ${plan.money:.2f}" if plan.money else "")
    pen.text((MARGIN, 46), line, FAINT, small)
    for row, phase in enumerate(shown):
        top = HEAD + row * ROW + (ROW - BAR) // 2
        pen.text((MARGIN, top + 3), NAMES[phase.name], INK, text)
        x = float(left)
        for part, colour in PARTS:
            width = getattr(phase, part) * scale
            pen.rectangle((x, top, x + width, top + BAR), fill=colour)
            x += width
        over = phase.peak > card.free
        pen.text((right + 12, top + 3), f"{phase.peak / 1e9:.1f} GB", BAD if over else INK, text)
    limit, bottom = left + card.free * scale, HEAD + ROW * len(shown)
    pen.line((limit, HEAD - 6, limit, bottom + 6), fill=LINE, width=3)
    label = f"{card.free / 1e9:.1f} of {card.total / 1e9:.1f} GB usable"
    pen.text(
        (min(limit - pen.textlength(label, small) / 2, WIDTH - MARGIN - pen.textlength(label, small)), bottom + 10),
        label,
        LINE,
        small,
    )
    x = float(MARGIN)
    for part, colour in PARTS:
        pen.rectangle((x, bottom + 46, x + 16, bottom + 62), fill=colour)
        pen.text((x + 24, bottom + 45), part, INK, small)
        x += 48 + pen.textlength(part, small)
    on_cpu = [NAMES[phase.name] for phase in plan.phases if phase.where == "cpu" and phase.seconds]
    if on_cpu:
        pen.text((x + 20, bottom + 45), f"on the CPU: {', '.join(on_cpu)}", FAINT, small)
    return np.asarray(image)
