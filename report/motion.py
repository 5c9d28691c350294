"""Whether the result moves as much and as smoothly as the dance."""

import numpy as np

from ..pose.keypoints import BODY, Poses
from .body import known, torso
from .figure import Figure

ROUND = 8  # frames before and after that are taken together: a second at 16 a second
READING = 0.002  # torsos a frame by which read joints move of themselves
READING_JERK = 0.02  # the same in the third difference


def motion_figures(asked: Poses, body: Poses) -> list[Figure]:
    """Ways and third differences of the joints that both show, the same people in the poses asked for and in the result."""
    both, size = known(asked) & known(body), torso(asked)
    ratios = {}
    for id, order, floor in (("speed", 1, READING), ("smoothness", 3, READING_JERK)):
        seen = np.logical_and.reduce([both[i : len(both) - order + i] for i in range(order + 1)])
        sums = []
        for poses in (body, asked):
            steps = np.diff(poses.points[:, :, BODY], order, axis=0)
            way = np.linalg.norm(steps, axis=-1) / size[:, None] + floor
            sums.append(around((way * seen).sum((1, 2))))
        curve = np.full(len(both), np.nan)
        curve[order:] = np.divide(sums[0], sums[1], out=np.full(len(seen), np.nan), where=sums[1] > 0)
        ratios[id] = Figure(id, curve)
    return list(ratios.values())


def around(values: np.ndarray) -> np.ndarray:
    """Sums over 8 values before, the value and 8 after."""
    return np.convolve(values, np.ones(2 * ROUND + 1))[ROUND : ROUND + len(values)]
