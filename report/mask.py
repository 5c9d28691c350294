"""Where people are in a picture, from their joints alone: generous, so that what is left is background."""

import numpy as np

from ..pose.keypoints import Poses
from .body import LIMBS, known, poses_at

CELL = 8  # pixels of the luma picture that are in or out together
THICK = 0.42  # of the torso, about every limb: body, hair, hands, feet and a little more
ENDS = np.array([*LIMBS.values(), (0, 0), (4, 4), (7, 7), (10, 10), (13, 13)])


def people_mask(poses: Poses, frame: int, shape: tuple[int, int], size: np.ndarray) -> np.ndarray:
    """[people, height, width] bool of one frame at the shape of its luma picture; `size` is `torso(poses)`."""
    height, width = shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    x = ((np.arange(columns, dtype=np.float32) + 0.5) * CELL)[None, :, None]
    y = ((np.arange(rows, dtype=np.float32) + 0.5) * CELL)[:, None, None]
    scale = np.array([width / poses.width, height / poses.height])
    seen, masks = known(poses_at(poses, frame))[0], np.zeros((len(size), rows, columns), bool)
    for person, mask in enumerate(masks):
        ends = ENDS[seen[person][ENDS].all(-1)]
        if not len(ends):
            continue
        start, end = (poses.points[frame, person, ends[:, i]] * scale for i in (0, 1))
        along = (end - start).astype(np.float32)
        from_x, from_y = x - start[:, 0].astype(np.float32), y - start[:, 1].astype(np.float32)
        squared = np.maximum((along**2).sum(-1), 1e-6)
        share = np.clip((from_x * along[:, 0] + from_y * along[:, 1]) / squared, 0, 1)
        away = ((from_x - share * along[:, 0]) ** 2 + (from_y - share * along[:, 1]) ** 2).min(-1)
        mask[:] = away < (THICK * size[person] * scale.mean()) ** 2
    return masks.repeat(CELL, 1).repeat(CELL, 2)[:, :height, :width]
