"""Filled shapes on a canvas [height, width, 4] uint8, with numpy alone: the same pixels on every machine.

All shapes are convex, so a row of one is the span between its outermost outline pixels. The painter turns every outline
of a call into pixels, these into spans, and the spans into one list of canvas positions in painting order: no Python loop
over shapes or rows. The published drawings were made with OpenCV; discs equal its discs for radius 1 to 4, limbs and lines
differ from it in a few edge pixels.
"""

import numpy as np

RADIANS = np.deg2rad(np.arange(361))
COSINES, SINES = np.cos(RADIANS), np.sin(RADIANS)


class Painter:
    """Paints shapes and remembers which pixels it touched."""

    def __init__(self, width: int, height: int) -> None:
        self.canvas = np.zeros((height, width, 4), np.uint8)
        self.pixels = self.canvas.view(np.uint32).reshape(-1)
        self._touched: list[np.ndarray] = []

    def limbs(self, start: np.ndarray, end: np.ndarray, half_width: int, colors: np.ndarray) -> None:
        """Filled ellipses from start to end [n, 2], colors [n, 4]."""
        self._paint(*outline(ellipses(start, end, half_width)), colors)

    def lines(self, start: np.ndarray, end: np.ndarray, thickness: int, colors: np.ndarray) -> None:
        """Straight lines with round ends between whole pixels [n, 2]."""
        along = end - start
        aside = np.stack([-along[:, 1], along[:, 0]], 1) * thickness / 2
        aside = aside / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        sides = outline(np.stack([start + aside, start - aside, end - aside, end + aside], 1))
        tips = disc_outline(start, thickness // 2), disc_outline(end, thickness // 2)
        owner, x, y = (np.concatenate(part) for part in zip(sides, *tips, strict=True))
        self._paint(owner, x, y, colors)

    def discs(self, centers: np.ndarray, radius: int, colors: np.ndarray) -> None:
        """Filled circles about whole pixels [n, 2]."""
        self._paint(*disc_outline(centers, radius), colors)

    def _paint(self, owner: np.ndarray, x: np.ndarray, y: np.ndarray, colors: np.ndarray) -> None:
        height, width = self.canvas.shape[:2]
        inside = (y >= 0) & (y < height)
        row, x = owner[inside] * height + y[inside], x[inside]
        low = np.full(len(colors) * height, width)
        high = np.full(len(colors) * height, -1)
        np.minimum.at(low, row, np.maximum(x, 0))
        np.maximum.at(high, row, np.minimum(x, width - 1))
        row = np.flatnonzero(low <= high)
        count = high[row] - low[row] + 1
        first = row % height * width + low[row] - (np.cumsum(count) - count)
        where = np.repeat(first, count) + np.arange(count.sum())
        packed = np.ascontiguousarray(colors).view(np.uint32).reshape(-1)
        self.pixels[where] = np.repeat(packed[row // height], count)  # of repeated positions the last one stays
        self._touched.append(where)

    def take_touched(self) -> np.ndarray:
        """Positions (y · width + x) painted since the last call, some of them more than once."""
        touched, self._touched = np.concatenate([np.zeros(0, int), *self._touched]), []
        return touched


def limb_geometry(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [n, 2], half length [n] and angle in degrees [n] of limbs, in whole numbers cut towards zero.

    So every OpenPose drawing does it: int() of each.
    """
    along = start - end
    angle = np.degrees(np.arctan2(along[:, 1], along[:, 0]))
    return ((start + end) / 2).astype(int), (np.linalg.norm(along, axis=1) / 2).astype(int), angle.astype(int)


def ellipses(start: np.ndarray, end: np.ndarray, half_width: int) -> np.ndarray:
    """Polygons [n, 361, 2] of whole pixels about limbs, a corner a degree."""
    center, half, degrees = limb_geometry(start, end)
    angle = np.deg2rad(degrees)[:, None]
    x, y = half[:, None] * COSINES, half_width * SINES
    corners = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], -1)
    return np.rint(center[:, None] + corners)


def outline(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owner, x, y of the pixels on the edges of polygons [n, corners, 2], without gaps."""
    step = np.roll(polygons, -1, 1) - polygons
    count = np.ceil(np.abs(step).max(-1)).astype(int)
    owner = np.repeat(np.arange(len(polygons)), count.sum(1) + polygons.shape[1])
    edges = (count + 1).reshape(-1)
    along = np.arange(edges.sum()) - np.repeat(np.cumsum(edges) - edges, edges)
    share = along / np.repeat(np.maximum(count, 1).reshape(-1), edges)
    points = np.repeat(polygons.reshape(-1, 2), edges, 0) + share[:, None] * np.repeat(step.reshape(-1, 2), edges, 0)
    x, y = np.rint(points).astype(int).T
    return owner, x, y


def disc_outline(centers: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owner, x, y of the leftmost and rightmost pixel of each row of discs x² + y² ≤ radius²."""
    rows = np.arange(-radius, radius + 1)
    reach = np.sqrt(radius**2 - rows**2).astype(int)
    at = np.concatenate([np.stack([-reach, rows], 1), np.stack([reach, rows], 1)])
    x, y = (centers[:, None] + at).reshape(-1, 2).T
    return np.repeat(np.arange(len(centers)), len(at)), x, y
