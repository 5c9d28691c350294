"""POSE_KEYPOINT, the JSON-like value that ComfyUI's and controlnet_aux's pose nodes exchange, read and written.

A list of frames {people, canvas_width, canvas_height}; each person has flat x, y, confidence lists. Writers disagree
about nearly everything else (18 or 25 body joints, pixels or 0..1, absent parts as null, [] or zeros, which hand
is left), so the reader accepts all of it and the writer writes what both readers understand.
"""

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from ..base.cancel import IsCancelled, stop_if
from .keypoints import BODY, FACE, FEET, LEFT_HAND, LEFT_WRIST, RIGHT_HAND, RIGHT_WRIST, Poses, empty

RAW_KEY = "steadydancer_raw"
"""Our own nodes' key of a person: all 134 points with their scores, negative where too unsure for the public lists."""

PARTS = {
    "pose_keypoints_2d": BODY,
    "foot_keypoints_2d": FEET,
    "face_keypoints_2d": FACE,
    "hand_left_keypoints_2d": LEFT_HAND,
    "hand_right_keypoints_2d": RIGHT_HAND,
}
BODY_25_TO_18 = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
EYES = [14, 15]
THRESHOLD = 0.3
LARGEST_CANVAS = 16384  # pixels; drawing and encoding end before it
FEW_PEOPLE = 20_000  # people times frames that need no look at what is in them: 64 MB


def write(poses: Poses, threshold: float = THRESHOLD) -> list[dict]:
    """POSE_KEYPOINT of the clip: absolute pixels, lists of full length, points below `threshold` as 0, 0, 0.

    A known point's confidence is 1.0: controlnet_aux drops everything below 1, and core's nodes are as happy.
    """
    known = poses.scores >= max(threshold, 1e-6)
    confidence = known.astype(np.float64)
    flat = np.concatenate([np.where(known[..., None], poses.points, 0.0), confidence[..., None]], -1)
    raw = np.concatenate([poses.points, np.where(known, poses.scores, 0.0 - poses.scores)[..., None]], -1)
    present = poses.present
    frames = []
    for f in range(len(flat)):
        people = []
        for p in np.flatnonzero(present[f]):
            person: dict[str, Any] = {key: flat[f, p, part].ravel().tolist() for key, part in PARTS.items()}
            person["face_keypoints_2d"] += flat[f, p, EYES].ravel().tolist()
            person[RAW_KEY] = raw[f, p].ravel().tolist()
            if poses.tracked:
                person["track_id"] = int(p)
            people.append(person)
        frames.append({"people": people, "canvas_width": poses.width, "canvas_height": poses.height})
    return frames


class TooSparse(ValueError):
    """The clip would take far more memory than there is in the pose."""


def read(value: list | dict | str, cancelled: IsCancelled = lambda: False) -> Poses:
    """The clip in a POSE_KEYPOINT value: a list of frames, one frame, or either as JSON text.

    A frame on another canvas size than the first is scaled to it. Raises ValueError in plain words when it is no pose,
    and Cancelled within a second of `cancelled()`.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise ValueError(
                "This is not a pose: the text is not valid JSON. Save the pose again or check the file."
            ) from err
    frames = [value] if isinstance(value, dict) else value
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(
            "This is not a pose: a list of frames with people is needed. Connect a DWPose or OpenPose output."
        )
    if any("animals" in frame for frame in frames):
        logging.warning("SteadyDancer reads the poses of people only; the animals in this pose are left out.")
    width, height = (_pixels(frames[0].get(key)) for key in ("canvas_width", "canvas_height"))
    if width <= 0 or height <= 0:
        raise ValueError("This pose does not say how large its picture was. Set canvas_width and canvas_height in it.")
    if max(width, height) > LARGEST_CANVAS:
        raise ValueError(
            f"This pose says that its picture is {width}×{height}. Correct canvas_width and canvas_height."
        )
    try:
        return _clip(frames, width, height, cancelled)
    except TooSparse:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        raise ValueError(
            "This pose cannot be read: its people are not lists of x, y, confidence as OpenPose writes them. "
            "Save it again from the tool that made it."
        ) from err


def _pixels(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _clip(frames: list[dict], width: int, height: int, cancelled: IsCancelled) -> Poses:
    people = [frame.get("people") or [] for frame in frames]
    ids = [[person.get("track_id") for person in frame] for frame in people]
    tracked = any(ids) and all(isinstance(i, int) for frame in ids for i in frame)
    tracked = tracked and all(len(set(frame)) == len(frame) for frame in ids)
    known = sorted({i for frame in ids for i in frame}) if tracked else range(max(len(frame) for frame in people))
    slots = {i: slot for slot, i in enumerate(known)}
    numbers = sum(_length(person.get(key)) for frame in people for person in frame for key in (*PARTS, RAW_KEY))
    if len(frames) * len(known) > max(FEW_PEOPLE, numbers):
        raise TooSparse(
            f"This pose has {len(frames):,} frames and up to {len(known):,} people in one, and next to no points in them. "
            "Take out the frames with false people, or read the video again."
        )
    clip = empty(len(frames), len(known), width, height)
    for f, frame in enumerate(frames):
        stop_if(cancelled)
        size = [_pixels(frame.get("canvas_width")) or width, _pixels(frame.get("canvas_height")) or height]
        for i, person in enumerate(people[f]):
            points, scores = _person(person, size)
            slot = slots[ids[f][i]] if tracked else i
            clip.points[f, slot] = points * np.divide([width, height], size)
            clip.scores[f, slot] = scores
    return replace(clip, tracked=tracked)


def _person(person: dict, size: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Points [134, 2] in pixels and scores [134] of one person on a canvas of `size` (width, height)."""
    values = np.zeros((134, 3))
    for key, part in PARTS.items():
        joints = _triples(person.get(key))
        if key == "pose_keypoints_2d" and len(joints) == 25:
            values[FEET] = joints[19:25]
            joints = joints[BODY_25_TO_18]
        count = min(len(joints), part.stop - part.start)
        if count:
            values[part.start : part.start + count] = joints[:count]
    values[~np.isfinite(values).all(1)] = 0.0
    values[values[:, 2] <= 0] = 0.0
    if max(size) > 2 and np.abs(values[:, :2]).max() <= 1:
        values[:, :2] *= size
    values[:, 2] = np.minimum(values[:, 2], 1.0)

    raw = _triples(person.get(RAW_KEY))
    if len(raw) == 134 and _untouched(raw, values):
        return raw[:, :2], np.abs(raw[:, 2])
    _side_hands(values)
    return values[:, :2], values[:, 2]


def _untouched(raw: np.ndarray, values: np.ndarray) -> bool:
    """Whether nobody has moved, added or removed a public point since the raw ones were written."""
    known = values[:, 2] > 0
    moved = np.abs(raw[known, :2] - values[known, :2]).max(initial=0.0)
    return moved < 0.01 and np.array_equal(raw[:, 2] > 0, known)


def _length(flat: list | None) -> int:
    return 0 if flat is None else len(flat)


def _triples(flat: list | None) -> np.ndarray:
    """A flat x, y, confidence list as [n, 3]; an absent or cut one as what is there."""
    numbers = np.asarray(flat if flat is not None else [], np.float64).ravel()
    return numbers[: len(numbers) // 3 * 3].reshape(-1, 3)


def _side_hands(values: np.ndarray) -> None:
    """Swaps the two hands in place when they are nearer to each other's wrists: core labels left as right."""
    wrists, roots = values[[LEFT_WRIST, RIGHT_WRIST]], values[[LEFT_HAND.start, RIGHT_HAND.start]]
    seen = [roots[i, 2] > 0 for i in (0, 1)]
    if not (wrists[:, 2] > 0).all() or not any(seen):
        return
    distance = np.linalg.norm(roots[:, None, :2] - wrists[None, :, :2], axis=-1)
    kept = sum(distance[i, i] for i in (0, 1) if seen[i])
    swapped = sum(distance[i, 1 - i] for i in (0, 1) if seen[i])
    if swapped < kept:
        left = values[LEFT_HAND].copy()
        values[LEFT_HAND], values[RIGHT_HAND] = values[RIGHT_HAND], left
