"""Poses as pictures, in the styles that pose-driven models were trained on."""

from collections.abc import Callable

import numpy as np

from ..base.cancel import IsCancelled, stop_if
from .keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, Poses
from .raster import Painter
from .styles import FACE_DOT, HAND_COLORS, HAND_DOT, HAND_EDGES, LIMBS, PALETTE, Style


def draw(
    poses: Poses,
    style: Style,
    make_painter: Callable[[int, int], Painter] = Painter,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: IsCancelled = lambda: False,
) -> np.ndarray:
    """Pictures [frames, height, width, 3] float32, 0..1, of the clip on black at its canvas size.

    A style with scale 2 is painted at twice the size and averaged. Raises Cancelled.
    """
    pictures = np.zeros((len(poses.points), poses.height, poses.width, 3), np.float32)
    style, scale = style.sized(poses.width, poses.height), style.scale
    brush = make_painter(poses.width * scale, poses.height * scale)
    blocks = brush.pixels.reshape(poses.height, scale, poses.width, scale)
    drawn = np.zeros((poses.height, poses.width), bool)
    for frame, picture in enumerate(pictures):
        stop_if(cancelled)
        paint(brush, poses, frame, style)
        touched = brush.take_touched()
        row, column = np.divmod(touched, poses.width * scale)
        drawn.reshape(-1)[row // scale * poses.width + column // scale] = True
        y, x = np.nonzero(drawn)
        colors = blocks[y, :, x].view(np.uint8).reshape(len(y), scale * scale, 4)
        picture[y, x] = colors[:, :, :3].sum(1) * np.float32(1 / (255 * scale * scale))
        drawn[y, x] = False
        brush.pixels[touched] = 0
        progress(frame + 1, len(pictures))
    return pictures


def paint(brush: Painter, poses: Poses, frame: int, style: Style) -> None:
    """Paints one frame's people, in the style's order, on the brush's canvas of scale times the clip's size."""
    size = np.array([poses.width, poses.height]) * style.scale
    points = np.clip(poses.points[frame] * style.scale, -4 * size, 5 * size)  # a runaway joint costs no minutes
    seen = poses.scores[frame] > style.threshold
    groups = [[person] for person in range(len(points))] if style.by_person else [list(range(len(points)))]
    for group in groups:
        _bodies(brush, points[group], seen[group], style)
        for person in group:
            for hand in (LEFT_HAND, RIGHT_HAND):
                _hand(brush, points[person, hand].astype(int), seen[person, hand], style)
        if style.face_dot:
            faces = points[group, FACE][seen[group, FACE]].astype(int)
            brush.discs(faces, style.face_dot, _rgba(np.broadcast_to(FACE_DOT, (len(faces), 3)), style))


def _bodies(brush: Painter, points: np.ndarray, seen: np.ndarray, style: Style) -> None:
    """Limbs of all people, limb by limb, then their joints: points [people, 134, 2]."""
    limb, person = np.nonzero(seen[:, LIMBS].all(-1).T)
    dimmed = (PALETTE[limb] * style.dim).astype(np.uint8)
    start, end = points[person, LIMBS[limb, 0]], points[person, LIMBS[limb, 1]]
    brush.limbs(start, end, style.limb, _rgba(dimmed, style))
    joint, person = np.nonzero(seen[:, BODY].T)
    brush.discs(points[person, joint].astype(int), style.joint, _rgba(PALETTE[joint], style))
    if style.foot_dot:
        foot, person = np.nonzero(seen[:, FEET].T)
        centers = points[person, foot + FEET.start].astype(int)
        brush.discs(centers, style.foot_dot, _rgba(PALETTE[(foot + FEET.start) % len(PALETTE)], style))


def _hand(brush: Painter, points: np.ndarray, seen: np.ndarray, style: Style) -> None:
    """One hand's 20 edges and 21 dots: whole pixels [21, 2]. Points at or beyond the left and top edge are left out."""
    seen = seen & (points > 0).all(-1)
    edges = np.flatnonzero(seen[HAND_EDGES].all(-1))
    start, end = points[HAND_EDGES[edges, 0]], points[HAND_EDGES[edges, 1]]
    brush.lines(start, end, style.hand_line, _rgba(HAND_COLORS[edges], style))
    brush.discs(points[seen], style.hand_dot, _rgba(np.broadcast_to(HAND_DOT, (int(seen.sum()), 3)), style))


def _rgba(colors: np.ndarray, style: Style) -> np.ndarray:
    """Colours [n, 3] as the canvas holds them, [n, 4], opaque."""
    colors = colors[:, ::-1] if style.swapped else colors
    return np.concatenate([colors, np.full((len(colors), 1), 255, np.uint8)], 1)
