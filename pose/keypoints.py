"""The one in-memory form of poses: a clip of people with 134 points each, absolute pixels and raw scores."""

from dataclasses import dataclass, replace

import numpy as np

BODY = slice(0, 18)
"""0 nose, 1 neck, 2-4 right arm, 5-7 left arm, 8-10 right leg, 11-13 left leg, 14/15 right/left eye, 16/17 ears."""
FEET = slice(18, 24)
"""Left big toe, small toe, heel, then the right foot's."""
FACE = slice(24, 92)
LEFT_HAND = slice(92, 113)
RIGHT_HAND = slice(113, 134)
COUNT = 134
NECK, RIGHT_WRIST, LEFT_WRIST = 1, 4, 7

# Where each of the 134 points comes from among the 133 of COCO-WholeBody; the neck (1) is computed.
FROM_COCO = np.array([0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3, *range(17, 133)])


@dataclass(frozen=True)
class Poses:
    """The people of a clip.

    points [frames, people, 134, 2] float64, absolute pixels of a width × height canvas; scores [frames, people, 134]
    float32, the estimator's confidence, 0 where a point is unknown. A person who is not in a frame has scores 0.
    tracked: person i is the same human being in every frame.
    """

    points: np.ndarray
    scores: np.ndarray
    width: int
    height: int
    tracked: bool = False

    @property
    def present(self) -> np.ndarray:
        """[frames, people] bool: whether anything of the person is known in the frame."""
        return self.scores.max(axis=2, initial=0.0) > 0

    def select(self, people: list[int]) -> "Poses":
        """The clip with only these people, in this order."""
        return replace(self, points=self.points[:, people], scores=self.scores[:, people])

    def resized(self, width: int, height: int) -> "Poses":
        """The same poses on a canvas of another size."""
        scale = np.array([width / self.width, height / self.height])
        return replace(self, points=self.points * scale, width=width, height=height)


def empty(frames: int, people: int, width: int, height: int) -> Poses:
    """A clip in which nothing is known yet."""
    return Poses(np.zeros((frames, people, COUNT, 2)), np.zeros((frames, people, COUNT), np.float32), width, height)


def from_coco(points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO-WholeBody points [..., 133, 2] and scores [..., 133] in the order above, with the neck between the shoulders.

    The neck is as sure as the less sure shoulder, and unknown unless both are above 0.3.
    """
    shoulders = scores[..., [5, 6]].min(-1)
    points, neck = points[..., FROM_COCO, :], points[..., [5, 6], :].mean(-2)
    scores = scores[..., FROM_COCO]
    points[..., NECK, :] = neck
    scores[..., NECK] = np.where(shoulders > 0.3, shoulders, 0.0)
    return points, scores


def boxes(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Bounds x1, y1, x2, y2 [..., 4] of the known points [..., n, 2]; zeros where none is known."""
    low = np.where(known[..., None], points, np.inf).min(-2)
    high = np.where(known[..., None], points, -np.inf).max(-2)
    bounds = np.concatenate([low, high], -1)
    return np.where(np.isfinite(bounds), bounds, 0.0)
