"""Fits a dancer's skeleton to the body of the person in the picture: bone lengths and place, not the motion.

Every bone keeps its direction and takes the length that the reference's bone has, walking outwards from the neck.
`official` reproduces the SteadyDancer authors' script, which measures in frame 0 only and trusts every joint; `robust`
measures confident joints over several frames and copes with references and drivers that show half a body.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .keypoints import BODY, FACE, LEFT_HAND, NECK, RIGHT_HAND, Poses, boxes
from .track import track

VISIBLE = 0.35
"""The score from which the authors draw a joint."""

# The skeleton as (joint, parent, length group), parents first. Joints of one group share a scale.
BONES = (
    (0, 1, "neck"),
    (14, 0, "face right"),
    (16, 0, "face right"),
    (15, 0, "face left"),
    (17, 0, "face left"),
    (2, 1, "shoulder"),
    (5, 1, "shoulder"),
    (3, 2, "upper arm"),
    (6, 5, "upper arm"),
    (4, 3, "lower arm"),
    (7, 6, "lower arm"),
    (8, 1, "body"),
    (11, 1, "body"),
    (9, 8, "upper leg"),
    (12, 11, "upper leg"),
    (10, 9, "lower leg"),
    (13, 12, "lower leg"),
)
HANDS = ((LEFT_HAND, 7), (RIGHT_HAND, 4))
FEET_AT = ((slice(18, 21), 13), (slice(21, 24), 10))

# What is measured for a group: point pairs whose distances are added up, averaged over the alternatives (left, right).
Ways = list[list[tuple[Any, Any]]]
MEASURES: dict[str, Ways] = {
    "neck": [[(0, 1)]],
    "face right": [[(16, 14), (14, 0)]],
    "face left": [[(17, 15), (15, 0)]],
    "shoulder": [[(2, 5)]],
    "upper arm": [[(2, 3)], [(5, 6)]],
    "lower arm": [[(3, 4)], [(6, 7)]],
    "body": [[(1, "hips")]],
    "upper leg": [[(8, 9)], [(11, 12)]],
    "lower leg": [[(9, 10)], [(12, 13)]],
}
HIPS = [8, 11]

# robust: how far a group may leave the whole body's scale, and which other group stands in for one that is not seen.
LIMITS = (0.5, 2.0)
STANDS_IN = {
    "face right": ("face left", "neck", "shoulder"),
    "face left": ("face right", "neck", "shoulder"),
    "neck": ("shoulder", "body"),
    "shoulder": ("body", "neck"),
    "upper arm": ("lower arm", "shoulder"),
    "lower arm": ("upper arm", "shoulder"),
    "body": ("shoulder", "upper leg"),
    "upper leg": ("lower leg", "body"),
    "lower leg": ("upper leg", "body"),
}


def align(driving: Poses, reference: Poses, width: int, height: int, mode: str = "robust", frames: int = 5) -> Poses:
    """The driving poses on the reference person's body, in pixels of a width × height picture.

    mode `official` uses person 0, frame 0 and all joints; `robust` uses joints with a score of at least 0.35 in the
    first `frames` confident frames and pairs several people from left to right. Scores are the driving ones.
    Raises ValueError in plain words when either side shows nobody.
    """
    for poses, what in ((driving, "dance video"), (reference, "reference picture")):
        if not poses.present.any():
            raise ValueError(
                f"No person was found in the {what}, so there is nothing to align. Use one that shows a person, or lower "
                "person_threshold in its DWPose Estimator."
            )
    if mode == "official":
        pairs = [(0, 0)]
        fit: Callable[..., np.ndarray] = official
        if not (driving.present[0, 0] and reference.present[0, 0]):
            raise ValueError(
                "The official alignment needs a person in the first frame of the dance and in the picture. "
                "Start the dance later, or use the mode robust."
            )
    else:
        driving, reference = track(driving), track(reference)
        pairs, fit = _pairs(driving, reference), partial(robust, frames=frames)

    # Heights are the unit: x is multiplied by the aspect of its own picture, as the authors do.
    aspect = width / height
    to_units = np.array([driving.width / driving.height / driving.width, 1 / driving.height])
    reference_to_units = np.array([aspect / reference.width, 1 / reference.height])
    people = []
    for driver, model in pairs:
        moved = fit(
            driving.points[:, driver] * to_units,
            driving.scores[:, driver],
            reference.points[0, model] * reference_to_units,
            reference.scores[0, model],
        )
        people.append(moved / [aspect / width, 1 / height])
    chosen = driving.select([driver for driver, _ in pairs])
    return replace(chosen, points=np.stack(people, 1), width=width, height=height)


def official(points: np.ndarray, scores: np.ndarray, target: np.ndarray, _target_scores: np.ndarray) -> np.ndarray:
    """The authors' alignment of one person: points [frames, 134, 2] to the body `target` [134, 2], units of height.

    Invisible joints count with their guessed coordinates, as in the authors' script. A length that is 0 in the first
    frame gives scale 1 (the script leaves an infinity there).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = {
            group: float(np.mean(_lengths(target, ways) / _lengths(points[0], ways)))
            for group, ways in MEASURES.items()
        }
    scale = {group: value if np.isfinite(value) else 1.0 for group, value in scale.items()}
    moved = _walk(points, scale, lambda joint, parent: np.full(len(points), parent))
    return moved + (target[NECK] - points[0, NECK])


def robust(
    points: np.ndarray, scores: np.ndarray, target: np.ndarray, target_scores: np.ndarray, frames: int = 5
) -> np.ndarray:
    """One person's alignment from confident joints only: points [frames, 134, 2] to `target` [134, 2], units of height."""
    seen, target_seen = scores >= VISIBLE, target_scores >= VISIBLE
    scale = _robust_scales(points, seen, target, target_seen, frames)
    points = _steady_neck(points, seen)

    def parent_of(joint: int, parent: int) -> np.ndarray:
        """[frames] the nearest ancestor that is seen, the neck at last."""
        chosen: np.ndarray = np.full(len(points), parent)
        while parent != NECK:
            above = next(up for child, up, _ in BONES if child == parent)
            chosen = np.where(seen[:, parent] | (chosen != parent), chosen, above)
            parent = above
        return chosen

    moved = _walk(points, scale, parent_of)
    face = (scale["face right"] + scale["face left"]) / 2  # the script only carries faces along, at the driver's size
    moved[:, FACE] = moved[:, [0]] + face * (points[:, FACE] - points[:, [0]])
    anchor = next((j for j in (NECK, 0, 8, 11, 2, 5) if target_seen[j] and seen[:, j].any()), None)
    if anchor is None:  # they share no joint: put the middle of what is seen onto the middle
        here = boxes(moved[seen.any(1)][0], seen[seen.any(1)][0]).reshape(2, 2).mean(0)
        return moved + boxes(target, target_seen).reshape(2, 2).mean(0) - here
    # not the median of some: the video begins with the picture, so the first pose must be where the person stands
    return moved + target[anchor] - moved[np.argmax(seen[:, anchor]), anchor]


def _walk(points: np.ndarray, scale: dict[str, float], parent_of: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """All points with their bones scaled outwards from the neck, which stays. Faces stay where they are."""
    moved, rows = points.copy(), np.arange(len(points))
    for joint, parent, group in BONES:
        base = parent_of(joint, parent)
        moved[:, joint] = _from(moved[rows, base], scale[group], points[:, joint] - points[rows, base])
    hand = (scale["upper arm"] + scale["lower arm"]) / 2
    for part, size, at in [(part, hand, at) for part, at in HANDS] + [(p, scale["lower leg"], at) for p, at in FEET_AT]:
        moved[:, part] = _from(moved[:, [at]], size, points[:, part] - points[:, [at]])
    return moved


def _from(parent: np.ndarray, scale: float, bone: np.ndarray) -> np.ndarray:
    """The end of a scaled bone. The authors turn about a float32 centre; so do we, to meet their numbers to 1e-9."""
    pivot = parent.astype(np.float32)
    return pivot + scale * (parent + bone - pivot)


def _lengths(points: np.ndarray, ways: Ways) -> np.ndarray:
    """[ways, ...] the measured lengths in points [..., 134, 2], one for each way of measuring."""
    return np.stack(
        [sum(np.linalg.norm(_point(points, a) - _point(points, b), axis=-1) for a, b in way) for way in ways]
    )


def _point(points: np.ndarray, joint: Any) -> np.ndarray:
    return points[..., HIPS, :].mean(-2) if joint == "hips" else points[..., joint, :]


def _robust_scales(
    points: np.ndarray, seen: np.ndarray, target: np.ndarray, target_seen: np.ndarray, frames: int
) -> dict[str, float]:
    """A scale for each group: the median over its first confident frames, left and right averaged, clamped."""
    measured: dict[str, list[float]] = {}
    for group, ways in MEASURES.items():
        for way, length, wanted in zip(ways, _lengths(points, ways), _lengths(target, ways), strict=True):
            joints = [j for pair in way for j in (HIPS if "hips" in pair else []) + [j for j in pair if j != "hips"]]
            good = np.flatnonzero(seen[:, joints].all(1) & (length > 1e-6))[:frames]
            if len(good) and target_seen[joints].all() and wanted > 1e-6:
                measured.setdefault(group, []).append(wanted / np.median(length[good]))
    ratios = {group: float(np.mean(values)) for group, values in measured.items()}
    if not ratios:
        return dict.fromkeys(MEASURES, 1.0)
    whole = float(np.median(list(ratios.values())))
    ratios = {group: float(np.clip(value, whole * LIMITS[0], whole * LIMITS[1])) for group, value in ratios.items()}
    return {
        group: ratios.get(group, next((ratios[other] for other in STANDS_IN[group] if other in ratios), whole))
        for group in MEASURES
    }


def _steady_neck(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The points with the neck, from which all is measured, interpolated where it is not seen."""
    good = np.flatnonzero(seen[:, NECK])
    if len(good) in (0, len(points)):
        return points
    points, frames = points.copy(), np.arange(len(points))
    points[:, NECK] = np.stack([np.interp(frames, good, points[good, NECK, axis]) for axis in (0, 1)], -1)
    return points


def _pairs(driving: Poses, reference: Poses) -> list[tuple[int, int]]:
    """Who takes whose body: the most prominent people of both, matched from left to right."""
    count = min(_prominent(driving).size, _prominent(reference).size)
    sides = []
    for poses in (driving, reference):
        people = _prominent(poses)[:count]
        first = [int(np.argmax(poses.present[:, person])) for person in people]
        bounds = [
            boxes(poses.points[f, p, BODY], poses.scores[f, p, BODY] > 0) for f, p in zip(first, people, strict=True)
        ]
        sides.append([int(p) for _, p in sorted(zip([box[0] + box[2] for box in bounds], people, strict=True))])
    return list(zip(*sides, strict=True))


def _prominent(poses: Poses) -> np.ndarray:
    """The people that occur, the largest and longest seen first."""
    bounds = boxes(poses.points, poses.scores >= VISIBLE)
    size = ((bounds[..., 2] - bounds[..., 0]) * (bounds[..., 3] - bounds[..., 1])).sum(0)
    return np.array([p for p in np.argsort(-size, kind="stable") if poses.present[:, p].any()], int)
