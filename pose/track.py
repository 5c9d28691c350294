"""Who is who from frame to frame: stable slots for people whose order the detector shuffles."""

from dataclasses import replace

import numpy as np

from .keypoints import BODY, Poses, boxes

CONFIDENT = 0.3
FORGET = 15
"""Frames after which a person who has left gets a new slot."""
LEAST = 0.1
"""The similarity below which two sightings are two people."""
# How far a body joint may be off, as a part of the person's size, before it counts as another's (COCO's sigmas, doubled).
TOLERANCE = 2 * np.array([26, 79, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89, 25, 25, 35, 35]) / 1000


def track(poses: Poses, max_people: int = 0) -> Poses:
    """The clip with each person in the same slot throughout, the largest of the first frame first.

    Hungarian matching on half box overlap, half joint similarity, against where each person should be by now.
    With `max_people` only those seen largest and longest are kept (0 = all). A clip that is tracked already is only cut.
    """
    if not poses.tracked and poses.points.shape[1] > 1:
        poses = _slots(poses)
    poses = replace(poses, tracked=True)
    if 0 < max_people < poses.points.shape[1]:
        bounds = boxes(poses.points[:, :, BODY], poses.scores[:, :, BODY] >= CONFIDENT)
        kept = np.argsort(-_areas(bounds).sum(0), kind="stable")[:max_people]
        poses = poses.select(sorted(kept.tolist()))
    return poses


def _slots(poses: Poses) -> Poses:
    points, seen = poses.points[:, :, BODY], poses.scores[:, :, BODY] >= CONFIDENT
    bounds, present = boxes(points, seen), poses.present
    tracks: list[_Track] = []
    slots: list[list[tuple[int, int]]] = []  # per frame: (slot, person)
    for f in range(len(points)):
        people = np.flatnonzero(present[f])
        people = people[np.argsort(-_areas(bounds[f, people]), kind="stable")]
        alive = [i for i, one in enumerate(tracks) if f - one.frame <= FORGET]
        matched = {}
        if alive and len(people):
            where, known = (np.stack(part) for part in zip(*(tracks[i].at(f) for i in alive), strict=True))
            likeness = _similarity(where, known, points[f, people], seen[f, people])
            matched = {people[b]: alive[a] for a, b in assign(likeness, LEAST)}
        frame: list[tuple[int, int]] = []
        for p in people.tolist():
            if p not in matched:
                matched[p] = len(tracks)
                tracks.append(_Track())
            tracks[matched[p]].see(f, points[f, p], seen[f, p])
            frame.append((matched[p], p))
        slots.append(frame)

    shape = (len(points), max(len(tracks), 1))
    new_points = np.zeros((*shape, *poses.points.shape[2:]))
    new_scores = np.zeros((*shape, poses.scores.shape[2]), np.float32)
    for f, frame in enumerate(slots):
        for slot, person in frame:
            new_points[f, slot], new_scores[f, slot] = poses.points[f, person], poses.scores[f, person]
    return replace(poses, points=new_points, scores=new_scores)


class _Track:
    """One person's last sighting and how fast the body moves."""

    def __init__(self) -> None:
        self.frame, self.speed = -1, np.zeros(2)
        self.points: np.ndarray | None = None
        self.seen: np.ndarray | None = None

    def at(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the joints should be in a later frame, and which are known."""
        assert self.points is not None and self.seen is not None, "a track begins with a sighting"
        return self.points + self.speed * (frame - self.frame), self.seen

    def see(self, frame: int, points: np.ndarray, seen: np.ndarray) -> None:
        """Notes a sighting: points [18, 2] and which of them are seen."""
        if self.points is not None and (both := seen & self.seen).any():
            now = np.median(points[both] - self.points[both], axis=0) / (frame - self.frame)
            self.speed = (self.speed + now) / 2
        self.frame, self.points, self.seen = frame, points, seen


def _similarity(points: np.ndarray, seen: np.ndarray, other: np.ndarray, other_seen: np.ndarray) -> np.ndarray:
    """[n, m] 0..1 between bodies [n, 18, 2] and [m, 18, 2]: half the overlap of their boxes, half the likeness of joints
    that both show."""
    here, there = boxes(points, seen), boxes(other, other_seen)
    size = np.maximum(np.maximum(_areas(here)[:, None], _areas(there)[None]), 1.0)[..., None]
    both = seen[:, None] & other_seen[None]
    distance = ((points[:, None] - other[None]) ** 2).sum(-1)
    joints = np.where(both, np.exp(-distance / (2 * size * TOLERANCE**2)), 0.0).sum(-1) / np.maximum(both.sum(-1), 1)
    return 0.5 * iou(here, there) + 0.5 * joints


def assign(likeness: np.ndarray, least: float) -> list[tuple[int, int]]:
    """The pairing of rows and columns with the largest total likeness, without pairs below `least`."""
    from scipy.optimize import linear_sum_assignment  # 0.2 s to import

    rows, columns = linear_sum_assignment(-likeness)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if likeness[a, b] >= least]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap [n, m] of boxes x1, y1, x2, y2 [n, 4] and [m, 4]: intersection over union."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    return shared / np.maximum(_areas(a)[:, None] + _areas(b)[None] - shared, 1e-9)


def _areas(bounds: np.ndarray) -> np.ndarray:
    return (bounds[..., 2] - bounds[..., 0]) * (bounds[..., 3] - bounds[..., 1])
