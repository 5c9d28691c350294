"""The Dance Report as one picture: words and numbers, curves over time, and the worst frames below."""

from typing import Any

import numpy as np

from ..pose.keypoints import Poses
from .figure import BROKEN, GOOD, LOOK, UNSEEN, Figure
from .report import Report, shown
from .side_by_side import Trio

WIDTH, MARGIN, ROW, CURVE, LABELS, FRAMES_WIDE = 1200, 24, 24, 58, 210, 2
SHOWN = ("pck", "colour", "flicker", "jump", "background", "speed")  # what has a curve
# A light panel of its own, so that it reads the same on a light and on a dark canvas.
PANEL, INK, FAINT, BAND = (247, 247, 244), (36, 38, 42), (110, 114, 122), (230, 232, 228)
COLOURS = {GOOD: (36, 122, 70), LOOK: (196, 118, 20), BROKEN: (186, 32, 48), UNSEEN: FAINT}
FEW = 4  # worst frames that are shown


def sheet(report: Report, frames: np.ndarray, picture: np.ndarray, asked: Poses) -> np.ndarray:
    """uint8 [height, 1200, 3]. Frames and picture as for the report, poses on any canvas of that shape."""
    from PIL import Image, ImageDraw, ImageFont

    text, large = ImageFont.load_default(15), ImageFont.load_default(22)
    worst = sorted(report.worst[:FEW]) or [0]
    trio = Trio(frames, picture, asked, (WIDTH - 2 * MARGIN) // FRAMES_WIDE - MARGIN)
    rows = -(-len(worst) // FRAMES_WIDE)
    table = 60 + ROW * -(-len(report.figures) // 2) + 16
    curves = [figure for figure in report.figures if figure.id in SHOWN and figure.value is not None]
    below = table + CURVE * len(curves) + 44
    image = Image.new("RGB", (WIDTH, below + rows * (trio.height + 34) + MARGIN), PANEL)
    pen = ImageDraw.Draw(image)

    head = f"Dance Report: {report.frames} frames, {report.width} x {report.height}: "
    pen.text((MARGIN, 18), head, INK, large)
    pen.text((MARGIN + pen.textlength(head, large), 18), report.word, COLOURS[report.word], large)
    for number, figure in enumerate(report.figures):
        column, row = divmod(number, -(-len(report.figures) // 2))
        x, y = MARGIN + column * WIDTH // 2, 60 + row * ROW
        pen.text((x, y), figure.limits.name, INK, text)
        pen.text((x + 230, y), shown(figure.value), INK, text)
        pen.text((x + 310, y), figure.word, COLOURS[figure.word], text)
    for row, figure in enumerate(curves):
        _curve(pen, figure, table + row * CURVE, report.worst, text)
    left, right = MARGIN + LABELS, WIDTH - MARGIN
    for frame in range(0, report.frames, max(1, round(report.frames / 10))):
        at = left + (right - left) * frame / max(report.frames - 1, 1)
        pen.text((at, below - 44), str(frame), FAINT, text)
    pen.text((MARGIN, below - 22), "picture, pose and result in the worst frames:", INK, text)
    for number, frame in enumerate(worst):
        row, column = divmod(number, FRAMES_WIDE)
        x, y = MARGIN + column * (WIDTH // FRAMES_WIDE - MARGIN // 2), below + row * (trio.height + 34)
        pen.text((x, y), f"frame {frame}: {_faults(report, frame)}"[:64], INK, text)
        image.paste(Image.fromarray(trio[frame]), (x, y + 22))
    return np.asarray(image)


def _curve(pen: Any, figure: Figure, top: int, worst: list[int], font: Any) -> None:
    """One curve upwards from its limit: badness, 0 is what is still good, cut at twice what is broken."""
    left, right, bottom = MARGIN + LABELS, WIDTH - MARGIN, top + CURVE - 10
    pen.rectangle((left, top, right, bottom), BAND)
    middle = bottom - (bottom - top) / 3  # of good
    pen.line((left, middle, right, middle), COLOURS[GOOD])
    pen.line((left, top + (bottom - top) / 3, right, top + (bottom - top) / 3), COLOURS[BROKEN])
    count = max(len(figure.curve) - 1, 1)
    places = []
    for frame, badness in enumerate(figure.badness):
        x = left + (right - left) * frame / count
        if frame in worst:
            pen.line((x, top, x, bottom), (214, 206, 190))
        if np.isfinite(badness):
            places.append((x, middle - float(np.clip(badness, -1, 2)) * (bottom - top) / 3))
    if len(places) > 1:
        pen.line(places, INK, 2)
    for x, y in places if len(places) == 1 else ():
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), INK)
    pen.text((MARGIN, top + 4), figure.limits.name, INK, font)
    pen.text((MARGIN, top + 22), f"{shown(figure.value)}, {figure.word}", COLOURS[figure.word], font)


def _faults(report: Report, frame: int) -> str:
    """What is wrong in a frame, the worst first."""
    bad = [(float(figure.badness[frame]), figure.limits.name) for figure in report.figures]
    found = [name for badness, name in sorted(bad, reverse=True) if np.isfinite(badness) and badness > 0]
    return ", ".join(found) or "nothing"
