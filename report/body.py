"""The body as the figures see it: which joints and limbs there are, how large it is, and who is who."""

import numpy as np

from ..pose.keypoints import BODY, Poses, boxes

JOINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye", "right ear",
    "left ear",
)  # fmt: skip
MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
"""Which joint each one is when left and right are exchanged."""
LIMBS = {
    "head": (1, 0), "right shoulder": (1, 2), "left shoulder": (1, 5), "right upper arm": (2, 3), "right forearm": (3, 4),
    "left upper arm": (5, 6), "left forearm": (6, 7), "right side": (1, 8), "left side": (1, 11), "right thigh": (8, 9),
    "right shin": (9, 10), "left thigh": (11, 12), "left shin": (12, 13),
}  # fmt: skip
SURE = 0.3  # the score from which a point counts, as in every drawing of poses
FEW = 4  # joints that make a person
NEAR = 2.0  # torsos between two people who are still the same
SHOULDERS_TO_TORSO = 1.4  # of an upright body


def known(poses: Poses) -> np.ndarray:
    """[frames, people, 18] bool: which joints are seen, and inside the picture."""
    points, size = poses.points[:, :, BODY], np.array([poses.width, poses.height])
    inside = ((points >= 0) & (points < size)).all(-1)
    return (poses.scores[:, :, BODY] >= SURE) & inside


def torso(poses: Poses) -> np.ndarray:
    """[people] length from the neck to between the hips in pixels: the median of the frames in which it is seen.

    Without hips from the shoulders, without these from the height of what is seen.
    """
    points, seen = poses.points[:, :, BODY], known(poses)
    hips, shoulders = points[:, :, [8, 11]].mean(2), points[:, :, 2] - points[:, :, 5]
    ways: tuple[tuple[np.ndarray, np.ndarray], ...] = (
        (np.linalg.norm(points[:, :, 1] - hips, axis=-1), np.all(seen[:, :, [1, 8, 11]], axis=-1)),
        (np.linalg.norm(shoulders, axis=-1) * SHOULDERS_TO_TORSO, np.all(seen[:, :, [2, 5]], axis=-1)),
        (np.ptp(boxes(points, seen)[..., 1::2], axis=-1) * 0.3, np.any(seen, axis=-1)),
    )
    sizes = np.full(points.shape[1], np.nan)
    for length, there in ways:
        for person in np.flatnonzero(np.isnan(sizes)):
            if there[:, person].any():
                sizes[person] = max(np.median(length[there[:, person], person]), 1.0)
    return np.nan_to_num(sizes, nan=1.0)


def poses_at(poses: Poses, frame: int) -> Poses:
    """One frame of a clip as a clip."""
    return Poses(poses.points[frame : frame + 1], poses.scores[frame : frame + 1], poses.width, poses.height)


def paired(asked: Poses, found: Poses) -> tuple[Poses, np.ndarray]:
    """The people of `found` in the order of `asked`, frame by frame the nearest first, and how many belong to nobody [frames].

    Scores are 0 where nobody within two torsos is found. Both clips have the same frames and canvas.
    """
    size, seen, other = torso(asked), known(asked), known(found)
    points, scores = np.zeros_like(asked.points), np.zeros_like(asked.scores)
    added = np.zeros(len(points))
    for frame in range(len(points)):
        distances = {}
        for a in np.flatnonzero(seen[frame].sum(-1) >= FEW):
            for b in np.flatnonzero(other[frame].sum(-1) >= FEW):
                both = seen[frame, a] & other[frame, b]
                if both.any():
                    way = asked.points[frame, a, BODY][both] - found.points[frame, b, BODY][both]
                    distances[a, b] = np.linalg.norm(way.mean(0)) / size[a]
        taken_a, taken_b = set(), set()
        for (a, b), distance in sorted(distances.items(), key=lambda item: item[1]):
            if distance < NEAR and a not in taken_a and b not in taken_b:
                taken_a.add(a)
                taken_b.add(b)
                points[frame, a], scores[frame, a] = found.points[frame, b], found.scores[frame, b]
        added[frame] = (other[frame].sum(-1) >= FEW).sum() - len(taken_b)
    return Poses(points, scores, asked.width, asked.height, tracked=asked.tracked), added


def mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[frames] mean over all other axes of what counts, NaN where nothing does."""
    axes = tuple(range(1, values.ndim))
    count = where.sum(axes)
    return np.where(count, np.where(where, values, 0.0).sum(axes) / count.clip(1), np.nan)
