"""Steadier poses over time: short gaps filled, jitter smoothed without lag. The people must be tracked."""

from dataclasses import replace

import numpy as np

from .keypoints import BODY, COUNT, Poses, boxes

CONFIDENT = 0.3
JUMP = 0.25
"""A step of more than this part of the body's height between two frames is a jump: nothing is averaged over it."""


def fill_gaps(poses: Poses, longest: int) -> Poses:
    """Points that are unsure for at most `longest` frames interpolated between the sure ones around them."""
    points, scores, frames = poses.points.copy(), poses.scores.copy(), np.arange(len(poses.points))
    for person in range(points.shape[1]):
        for point in range(COUNT):
            confident = np.flatnonzero(poses.scores[:, person, point] >= CONFIDENT)
            gaps = np.diff(confident) - 1
            for start, end in zip(
                confident[:-1][(gaps > 0) & (gaps <= longest)],
                confident[1:][(gaps > 0) & (gaps <= longest)],
                strict=True,
            ):
                inside = slice(start + 1, end)
                share = ((frames[inside] - start) / (end - start))[:, None]
                first, last = points[start, person, point], points[end, person, point]
                points[inside, person, point] = first + share * (last - first)
                scores[inside, person, point] = min(scores[start, person, point], scores[end, person, point])
    return replace(poses, points=points, scores=scores)


def smooth(poses: Poses, window: int) -> Poses:
    """Savitzky-Golay over `window` frames, order 2, weighted with the scores: noise goes, quick moves keep their size.

    Zero-phase, so that the dance stays on the beat; a point's track is cut where it jumps or is unsure.
    Source: local least squares as in A. Savitzky, M. Golay, Analytical Chemistry 36 (1964), with weights.
    """
    half, frames = window // 2, len(poses.points)
    confident = poses.scores >= CONFIDENT
    bounds = boxes(poses.points[:, :, BODY], confident[:, :, BODY])
    heights = np.where(bounds[..., 3] > bounds[..., 1], bounds[..., 3] - bounds[..., 1], np.nan)
    height = np.array([np.nanmedian(h) if np.isfinite(h).any() else np.inf for h in heights.T])
    step = np.linalg.norm(np.diff(poses.points, axis=0), axis=-1)
    cut = (step > JUMP * height[:, None]) | ~confident[1:] | ~confident[:-1]
    segment = np.zeros(confident.shape, int)
    segment[1:] = np.cumsum(cut, axis=0)

    normal = np.zeros((*confident.shape, 3, 3))
    right = np.zeros((*confident.shape, 3, 2))
    count = np.zeros(confident.shape, int)
    for offset in range(-half, half + 1):
        here = np.arange(max(0, -offset), min(frames, frames - offset))
        there = here + offset
        same = (segment[here] == segment[there]) & confident[there]
        weight = np.where(same, poses.scores[there], 0.0)[..., None, None]
        count[here] += same
        powers = np.array([1.0, offset, offset**2])
        normal[here] += weight * np.outer(powers, powers)
        right[here] += weight * powers[:, None] * (poses.points[there] - poses.points[here])[..., None, :]
    enough = confident & (count >= 3)  # a parabola needs three points
    points = poses.points.copy()
    points[enough] += np.linalg.solve(normal[enough], right[enough])[:, 0]
    return replace(poses, points=points)
