"""Whether it is still the same person: colours by region, and likeness by image features."""

import numpy as np

from ..pose.keypoints import BODY, Poses, boxes
from .body import SURE, known, poses_at, torso
from .figure import Figure, limits

# Region → the limbs along whose middle its colour is taken.
REGIONS = {
    "upper arms": ((2, 3), (5, 6)),
    "forearms": ((3, 4), (6, 7)),
    "thighs": ((8, 9), (11, 12)),
    "shins": ((9, 10), (12, 13)),
}
TORSO = (2, 5, 8, 11)
FACE = 0.1  # of the torso, about the nose
SHARES, SIDEWAYS = np.linspace(0.2, 0.8, 9), np.array([-0.03, 0.0, 0.03])
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # sRGB, D65
WHITE = np.array([0.9505, 1.0, 1.089])


def colours(frames: np.ndarray, body: Poses, picture: np.ndarray, model: Poses) -> Figure:
    """Colour differences between frames [n, height, width, 3], 0..1, and the picture of that size, of the worst region.

    `body` are the people in the frames, `model` the same people, in one frame, in the picture; the worst of them counts.
    """
    curve = np.full(len(frames), np.nan)
    parts: dict[str, list[int]] = {}
    good = limits()["colour"].good
    sizes = torso(body), torso(model)
    for person in range(body.points.shape[1]):
        wanted = regions(picture, model, 0, person, sizes[1][person])
        for frame, image in enumerate(frames):
            for name, lab in regions(image, body, frame, person, sizes[0][person]).items():
                if name in wanted:
                    away = float(np.linalg.norm(lab - wanted[name]))
                    curve[frame] = np.fmax(curve[frame], away)
                    if away > good:
                        parts.setdefault(name, []).append(frame)
    return Figure("colour", curve, {name: sorted(set(at)) for name, at in parts.items()})


def regions(image: np.ndarray, poses: Poses, frame: int, person: int, size: float) -> dict[str, np.ndarray]:
    """Median colour of every region that is seen, as CIE L*a*b* [3]. The picture has the size of the poses' canvas."""
    points = poses.points[frame, person, BODY]
    seen, places = known(poses_at(poses, frame))[0, person], {}
    if seen[list(TORSO)].all():
        right, left, right_hip, left_hip = points[list(TORSO)]
        u, v = (grid[..., None] for grid in np.meshgrid(SHARES, SHARES))
        top, bottom = right + u * (left - right), right_hip + u * (left_hip - right_hip)
        places["torso"] = (top + v * (bottom - top)).reshape(-1, 2)
    for name, limbs in REGIONS.items():
        there = [limb for limb in limbs if seen[list(limb)].all()]
        if there:
            places[name] = np.concatenate([_along(points[limb[0]], points[limb[1]], size) for limb in there])
    if seen[0]:
        places["face"] = points[0] + FACE * size * (np.stack(np.meshgrid(SHARES, SHARES), -1).reshape(-1, 2) * 2 - 1)
    return {name: _median(image, at) for name, at in places.items()}


def _along(start: np.ndarray, end: np.ndarray, size: float) -> np.ndarray:
    """Places [27, 2] along the middle of a limb and a little to both sides."""
    way = end - start
    aside = np.array([-way[1], way[0]]) / max(np.hypot(*way), 1e-9) * size
    return (start + SHARES[:, None, None] * way + SIDEWAYS[None, :, None] * aside).reshape(-1, 2)


def _median(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    x, y = places.round().astype(int).T
    return lab(np.median(image[y.clip(0, height - 1), x.clip(0, width - 1), :3], axis=0))


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB [..., 3], 0..1, as CIE L*a*b* under D65 (CIE 15, IEC 61966-2-1)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def likeness(features: np.ndarray, at: np.ndarray, of_picture: np.ndarray, count: int) -> list[Figure]:
    """Likeness and drift from image features [k, d] of person crops in the frames `at` [k], and the picture's [d]."""
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True).clip(1e-9)
    cosines = unit @ (of_picture / max(np.linalg.norm(of_picture), 1e-9))
    curve, drift = np.full(count, np.nan), np.full(count, np.nan)
    curve[at] = cosines
    if len(at) > 2:
        drift[-1] = -100 * np.polyfit(at, cosines, 1)[0]
    return [Figure("likeness", curve), Figure("drift", drift)]


def crop(poses: Poses, frame: int) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom in pixels about the first person's joints with a tenth on every side, or None."""
    seen = poses.scores[frame, :1, BODY] >= SURE
    if not seen.any():
        return None
    left, top, right, bottom = boxes(poses.points[frame, :1, BODY], seen)[0]
    aside = 0.1 * max(right - left, bottom - top)
    low = max(0, int(left - aside)), max(0, int(top - aside))
    return (
        *low,
        max(low[0] + 1, min(poses.width, int(right + aside))),
        max(low[1] + 1, min(poses.height, int(bottom + aside))),
    )
