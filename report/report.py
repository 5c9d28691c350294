"""The Dance Report: all figures of one result, as an object, as text and as JSON, and several of them in one table."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..base.cancel import IsCancelled
from ..pose.keypoints import Poses
from .agreement import agreement
from .body import FEW, known, paired, poses_at
from .figure import BROKEN, GOOD, LOOK, UNSEEN, Figure, limits
from .motion import motion_figures
from .person import colours
from .stability import stability

KIND, VERSION = "steadydancer dance report", 1
WORST = 10  # frames
LONGEST_LIST = 12  # ranges of frames in a line of text
SAME_SHAPE = 1.02  # sides that differ by less come from rounding


@dataclass(frozen=True)
class Report:
    """Figures of `frames` frames of width × height at `fps`; notes are sentences on what was compared."""

    frames: int
    fps: float
    width: int
    height: int
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)

    @property
    def worst(self) -> list[int]:
        """Up to ten frames with faults, the worst first: by how far all curves leave what is good."""
        bad = sum(np.clip(np.nan_to_num(figure.badness, nan=0.0), 0.0, 2.0) for figure in self.figures)
        return [int(frame) for frame in np.argsort(-bad, kind="stable")[:WORST] if bad[frame] > 0]

    @property
    def word(self) -> str:
        """The worst word of all figures."""
        words = [figure.word for figure in self.figures]
        return next(word for word in (BROKEN, LOOK, GOOD, UNSEEN) if word in words)

    def to_json(self) -> str:
        """The report with every curve, each number with four digits."""
        entries = []
        for figure in self.figures:
            known: dict[str, object] = {"id": figure.id, "name": figure.limits.name, "value": rounded(figure.value)}
            known |= {"unit": figure.limits.unit, "word": figure.word, "frames": figure.frames, "parts": figure.parts}
            known |= {"source": figure.limits.source, "change": figure.limits.change}
            entries.append(known | {"curve": [rounded(value) for value in figure.curve]})
        head: dict[str, object] = {
            "kind": KIND,
            "version": VERSION,
            "word": self.word,
            "frames": self.frames,
            "fps": self.fps,
        }
        head |= {"width": self.width, "height": self.height, "worst": self.worst, "notes": self.notes}
        return json.dumps(head | {"figures": entries})


def rounded(value: float | None) -> float | None:
    """Four digits; None, which JSON has, for what is not known."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")


def read_report(text: str) -> Report:
    """The report in the JSON of `to_json`. Raises ValueError for what is none."""
    try:
        data = json.loads(text)
        if data["kind"] != KIND or data["version"] != VERSION:
            raise ValueError("another kind or version")
        figures = [
            Figure(one["id"], np.array(one["curve"], np.float64), one["parts"])
            for one in data["figures"]
            if one["id"] in limits()
        ]
        return Report(data["frames"], data["fps"], data["width"], data["height"], figures, data["notes"])
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        raise ValueError(
            "This is no Dance Report of this version: make it with `cli.py report RESULT --json FILE`."
        ) from err


def make_report(
    frames: np.ndarray,
    picture: np.ndarray,
    asked: Poses,
    found: Poses,
    of_picture: Poses,
    fps: float,
    progress: Callable[[int, int, str], None] = lambda done, total, doing: None,
    cancelled: IsCancelled = lambda: False,
) -> Report:
    """Measures a result.

    frames [n, height, width, 3] and picture [height, width, 3] float32, 0..1; `asked` the poses it was asked to dance, of
    at least n frames; `found` and `of_picture` those read from result and picture, on their canvas. Raises Cancelled, and
    ValueError in plain words for what cannot be compared.
    """
    count, height, width = frames.shape[:3]
    asked, notes = comparable(asked, count, width, height)
    if not found.present.any():
        notes.append("Nobody was found in the result.")
    if not of_picture.present.any():
        notes.append("Nobody was found in the picture, so colours are not compared.")
    body, added = paired(asked, found)
    model, _ = paired(poses_at(asked, 0), of_picture)

    def step(done: int, total: int) -> None:
        progress(done, total, "Comparing frames")

    figures = agreement(asked, body, added)
    figures.append(colours(frames, body, picture, model))
    figures += stability(frames, picture, asked, found, body, step, cancelled)
    return Report(count, fps, width, height, figures + motion_figures(asked, body), notes)


def comparable(asked: Poses, count: int, width: int, height: int) -> tuple[Poses, list[str]]:
    """The poses for `count` frames of width × height, and what was left out. Raises ValueError in plain words."""
    if count < 2:
        raise ValueError("The result is one frame. A report needs the frames of a video, at least two.")
    given = len(asked.points)
    if not asked.present.any() or known(asked).sum(-1).max() < FEW:
        raise ValueError(
            "There is nobody in the poses, so nothing can be compared. Connect the poses that were asked for: the "
            "positive output of Align Pose to Reference."
        )
    if given < count:
        raise ValueError(
            f"The result has {count} frames, the poses have {given}. Connect the poses that this result was made from."
        )
    shape = asked.width * height / (asked.height * width)
    if max(shape, 1 / shape) > SAME_SHAPE:
        raise ValueError(
            f"The result is {width}×{height}, the poses are for {asked.width}×{asked.height}, another shape. Connect the "
            "poses after Align Pose to Reference, with the width and height of the result."
        )
    notes = [f"The poses go on to frame {given}; the first {count} are compared."] if given > count else []
    cut = Poses(asked.points[:count], asked.scores[:count], asked.width, asked.height, asked.tracked)
    return cut.resized(width, height), notes


def text(report: Report) -> list[str]:
    """The report as lines: a row a figure, then what is wrong where, and what to change."""
    head = f"{report.frames} frames of {report.width}×{report.height} at {report.fps:g} a second: {report.word}"
    lines = [head, *report.notes, "", f"{'':<30} {'':>8}  {'':<14} unit"]
    for figure in report.figures:
        lines.append(f"{figure.limits.name:<30} {shown(figure.value):>8}  {figure.word:<14} {figure.limits.unit}")
    for figure in report.figures:
        if figure.word in (LOOK, BROKEN):
            lines += ["", f"{figure.limits.name}, {figure.word}: frames {ranges(figure.frames)}"]
            parts = sorted(figure.parts.items(), key=lambda part: -len(part[1]))
            lines += [f"  {name}: frames {ranges(frames)}" for name, frames in parts]
            lines.append(f"  change: {figure.limits.change}")
    lines += ["", f"worst frames: {', '.join(map(str, report.worst)) or 'none'}"]
    return lines


def shown(value: float | None) -> str:
    """A value with three digits after the point, with one from 10 on; nothing for None."""
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def ranges(frames: list[int]) -> str:
    """3, 5-9, 40 of sorted numbers; the first of many."""
    found: list[list[int]] = []
    for frame in frames:
        if found and frame == found[-1][1] + 1:
            found[-1][1] = frame
        else:
            found.append([frame, frame])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in found[:LONGEST_LIST]]
    return ", ".join(words) + (" …" if len(found) > LONGEST_LIST else "")


def compared(names: list[str], reports: list[Report]) -> list[str]:
    """A table with a column a report; what is best in its row has a star, where they differ."""
    wide = max(24, *(len(name) + 2 for name in names))
    lines = [f"{'':<30}" + "".join(f"{name:>{wide}}" for name in names)]
    for id, limit in limits().items():
        found = [next((figure for figure in report.figures if figure.id == id), None) for report in reports]
        values = [figure.value if figure else None for figure in found]
        known_bad = [float(limit.badness(value)) for value in values if value is not None]
        if not known_bad:
            continue
        cells = []
        for figure, value in zip(found, values):
            if figure is None or value is None:
                cells.append("")
                continue
            best = min(known_bad) < max(known_bad) and limit.badness(value) == min(known_bad)
            cells.append(f"{figure.word} {shown(value)}{'*' if best else ' '}")
        lines.append(f"{limit.name:<30}" + "".join(f"{cell:>{wide}}" for cell in cells))
    return lines
