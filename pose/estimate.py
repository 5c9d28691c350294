"""The poses of a clip: people found every few frames, all crops of a batch through the pose net at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..base.cancel import IsCancelled, stop_if
from .crops import crop, decode, normalised, regions, unmirrored
from .detect import decode as decode_boxes
from .detect import every_frame, letterbox, link
from .keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, Poses, empty, from_coco

NO_PERSON = ("empty", "whole frame")
MISSING = ("empty", "previous", "interpolate")


@dataclass(frozen=True)
class Net:
    """A net to call, and how many items it takes at once: detector 640×640, pose net width × height."""

    run: Callable[[torch.Tensor], Any]  # one tensor of the detector, two of a pose net
    device: torch.device
    batch: int
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Settings:
    """What is looked for, in which frames, and how: see the help of DWPose Estimator. Thresholds are scores 0..1."""

    hands: bool = True
    body: bool = True
    face: bool = True
    person_threshold: float = 0.5
    detect_every: int = 1  # frames; boxes in between are interpolated
    max_people: int = 1  # 0 = all
    flip_test: bool = False
    no_person: str = "empty"


def estimate(
    frames: torch.Tensor,
    detector: Net | None,
    pose: Net,
    settings: Settings,
    boxes: dict[int, np.ndarray] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, doing: None,
    cancelled: IsCancelled = lambda: False,
) -> Poses:
    """The people of frames [n, height, width, 1, 3 or 4 channels], 0..1.

    `boxes` by frame [k, 5] (x1, y1, x2, y2, score) replace the detector. `progress` counts frames, first those in which
    people are looked for, then those whose poses are read. Raises Cancelled when cancelled; a batch that does not fit into
    memory is halved.
    """
    count, height, width = frames.shape[:3]
    found = boxes if boxes is not None else _find(frames, detector, settings, progress, cancelled)
    spacing = settings.detect_every if boxes is None else 1
    people = link(found, settings.max_people, spacing)
    placed = [every_frame(person, count, spacing) for person in people]
    if settings.no_person == "whole frame":
        placed = placed or [{}]
        alone = set(range(count)).difference(*placed)
        placed[0] |= dict.fromkeys(alone, np.array([0.0, 0.0, width, height]))

    poses = empty(count, len(placed), width, height)
    wanted = sorted((frame, slot) for slot, person in enumerate(placed) for frame in person)
    where = regions(np.array([placed[slot][frame] for frame, slot in wanted]).reshape(-1, 4), pose.width, pose.height)

    def run(start: int, stop: int) -> None:
        pieces: list[torch.Tensor] = []
        loaded = None
        for (frame, _), region in zip(wanted[start:stop], where[start:stop], strict=True):
            if frame != loaded:  # one frame at a time on the device: a 4K one has 100 MB
                loaded, picture = frame, rgb(frames[frame].to(pose.device))
            pieces.append(crop(picture, region, pose.width, pose.height))
        crops = normalised(torch.stack(pieces))
        answer = pose.run(crops)
        if settings.flip_test:
            answer = unmirrored(answer, pose.run(crops.flip(-1)))
        points, scores = from_coco(*decode(answer, where[start:stop]))
        for (frame, slot), at, confidence in zip(wanted[start:stop], points, scores, strict=True):
            poses.points[frame, slot], poses.scores[frame, slot] = at, confidence

    def step(crops: int) -> None:
        progress(crops * count // max(len(wanted), 1), count, "Reading poses")

    in_batches(len(wanted), pose.batch, run, step, cancelled)
    for shown, parts in (
        (settings.body, (BODY, FEET)),
        (settings.hands, (LEFT_HAND, RIGHT_HAND)),
        (settings.face, (FACE,)),
    ):
        for part in parts if not shown else ():
            poses.scores[:, :, part] = 0
    return replace(poses, tracked=len(placed) == 1)


def _find(
    frames: torch.Tensor,
    detector: Net | None,
    settings: Settings,
    progress: Callable[[int, int, str], None],
    cancelled: IsCancelled,
) -> dict[int, np.ndarray]:
    """People's boxes [k, 5] in every frame that is looked at."""
    assert detector, "there are boxes or there is a detector"
    looked = range(0, len(frames), settings.detect_every)
    height, width = frames.shape[1:3]
    found: dict[int, np.ndarray] = {}

    def run(start: int, stop: int) -> None:
        chosen = looked[start:stop]
        few = frames[chosen[0] : chosen[-1] + 1 : settings.detect_every]  # a view, where a list of indices would copy
        pictures = letterbox(rgb(few.to(detector.device)))
        found.update(
            zip(chosen, decode_boxes(detector.run(pictures), height, width, settings.person_threshold), strict=True)
        )

    def step(pictures: int) -> None:
        progress(pictures, len(looked), "Finding people")

    in_batches(len(looked), detector.batch, run, step, cancelled)
    return found


def in_batches(
    count: int,
    size: int,
    run: Callable[[int, int], None],
    step: Callable[[int], None],
    cancelled: IsCancelled,
) -> None:
    """run(start, stop) over 0 … count, `size` items at a time, half as many whenever memory runs out; step(items done)."""
    start = 0
    step(0)
    while start < count:
        stop_if(cancelled)
        stop = min(start + size, count)
        try:
            run(start, stop)
        except (RuntimeError, MemoryError) as err:
            if stop - start == 1 or not out_of_memory(err):
                raise
            size = (stop - start) // 2
            continue
        start = stop
        step(start)


def out_of_memory(err: Exception) -> bool:
    """Whether this is one of torch's many ways to say so."""
    words = ("out of memory", "not enough memory", "alloc")
    return isinstance(err, MemoryError | torch.cuda.OutOfMemoryError) or any(word in str(err).lower() for word in words)


def rgb(frames: torch.Tensor) -> torch.Tensor:
    """Pictures [..., 1, 3 or 4] with 3 channels: grey repeated, transparency dropped."""
    return frames.expand(*frames.shape[:-1], 3) if frames.shape[-1] == 1 else frames[..., :3]


def filled(poses: Poses, missing: str) -> Poses:
    """Frames in which a person was not found: left empty, the previous pose held, or interpolated between neighbours.

    Before the first sighting `interpolate` holds that, and after the last both hold the last, as core's nodes do: but only
    where nobody else is, or one who comes late or leaves early would stand there like a statue.
    """
    if missing == "empty":
        return poses
    points, scores = poses.points.copy(), poses.scores.copy()
    empty_frames = ~np.any(poses.present, 1)
    for person in range(points.shape[1]):
        known = np.flatnonzero(poses.present[:, person])
        for frame in np.flatnonzero(~poses.present[:, person]) if len(known) else ():
            before, after = known[known < frame], known[known > frame]
            if missing == "previous" and not len(before):
                continue
            if not (len(before) and len(after)) and not empty_frames[frame]:
                continue
            a = before[-1] if len(before) else after[0]
            b = after[0] if len(after) and missing == "interpolate" else a
            share = (frame - a) / max(b - a, 1)
            points[frame, person] = points[a, person] + share * (points[b, person] - points[a, person])
            scores[frame, person] = np.minimum(scores[a, person], scores[b, person])
    return replace(poses, points=points, scores=scores)
