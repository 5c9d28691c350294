"""The negative pose of SteadyDancer: the same motion by a body whose size and shape jump from frame to frame."""

from dataclasses import replace

import numpy as np

from .keypoints import FACE, NECK, Poses

SIZE = (0.7, 1.3)
ASPECT = (0.6, 1.4)


def augment(poses: Poses, seed: int) -> Poses:
    """Every frame scaled by a random size, and in x by a random aspect, about each person's neck (U(0.7, 1.3), U(0.6, 1.4)).

    One draw a frame for all people, as in the authors' `single_aug`; the same seed gives the same poses. Faces are not scaled.
    """
    random = np.random.default_rng(seed)
    size = random.uniform(*SIZE, len(poses.points))
    aspect = random.uniform(*ASPECT, len(poses.points))
    scale = np.stack([size * aspect, size], -1)[:, None, None]
    neck = poses.points[:, :, [NECK]]
    points = neck + scale * (poses.points - neck)
    points[:, :, FACE] = poses.points[:, :, FACE]
    return replace(poses, points=points)
