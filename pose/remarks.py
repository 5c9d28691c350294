"""What is worth knowing of an alignment before hours of sampling: what the picture does not show, and where the dance does
not fit it."""

import numpy as np

from .align import VISIBLE
from .keypoints import BODY, Poses

HEAD, LEGS, SHOULDERS = [0, 14, 15], [9, 10, 12, 13], (2, 5)
OUTSIDE = 0.25  # part of the joints from which a dancer has left the picture


def remarks(driving: Poses, reference: Poses, aligned: Poses) -> list[str]:
    """Sentences about what is odd; none where nothing is."""
    picture, first = most_of(reference, 0), most_of(driving, first_frame(driving))
    found = []
    if not picture[1][HEAD].any():
        found.append("The picture does not show the person's face, so the video makes one up.")
    if not picture[1][LEGS].any() and (driving.scores[..., LEGS] >= VISIBLE).any():
        found.append("The picture shows half a body, and the dance has legs: their length is a guess.")
    if turned(*picture) != turned(*first):
        found.append(
            "The person in the picture and the dancer face opposite ways at the beginning. Start the dance where they agree."
        )
    frames = len(driving.points)
    if missing := int((~driving.present.any(1)).sum()):
        found.append(f"Nobody is seen in {missing} of {frames} frames of the dance.")
    if gone := int(outside(aligned).sum()):
        found.append(f"The dancer leaves the picture in {gone} of {frames} frames. A wider picture would hold them.")
    return found


def first_frame(poses: Poses) -> int:
    """The first frame in which somebody is seen."""
    return int(poses.present.any(1).argmax())


def most_of(poses: Poses, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [134, 2] of the person of whom most is seen in a frame, and which of them are seen, bool [134]."""
    seen = poses.scores[frame] >= VISIBLE
    person = int(seen[:, BODY].sum(1).argmax())
    return poses.points[frame, person], seen[person]


def turned(points: np.ndarray, seen: np.ndarray) -> bool:
    """Whether a person shows the back: the right shoulder is on the picture's right, and no face is seen."""
    right, left = SHOULDERS
    return bool(seen[list(SHOULDERS)].all() and not seen[HEAD].all() and points[right, 0] > points[left, 0])


def outside(poses: Poses) -> np.ndarray:
    """bool [frames]: whether a good part of somebody's joints lies outside the canvas."""
    points, seen = poses.points[..., BODY, :], poses.scores[..., BODY] >= VISIBLE
    out = ((points < 0) | (points >= [poses.width, poses.height])).any(-1) & seen
    return (out.sum(-1) > OUTSIDE * seen.sum(-1).clip(1)).any(1)
