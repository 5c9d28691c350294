"""Where the people are: YOLOX over a clip, its boxes linked from frame to frame."""

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
import torch.nn.functional as F

from .track import assign, iou
from .yolox import SIZE, STRIDES

GREY = 114.0
OVERLAP = 0.45  # non-maximum suppression
LINKED = 0.1  # the least overlap of two sightings of one person
FORGET = 15  # frames after which a box that comes back is someone new
ALIKE = 0.5  # as large and sure as this part of somebody: may be the same person, seen again elsewhere


@dataclass
class Sightings:
    """One person's boxes x1, y1, x2, y2 by frame, and how prominent the person is."""

    boxes: dict[int, np.ndarray]
    weight: float = 0.0

    @property
    def size(self) -> float:
        """How prominent in a frame in which the person is seen."""
        return self.weight / len(self.boxes)

    def away(self, other: "Sightings") -> float:
        """Pixels between the two people at the frames in which they are nearest in time; infinite if seen together."""
        if self.boxes.keys() & other.boxes.keys():
            return np.inf
        mine, theirs = list(self.boxes), list(other.boxes)
        a, b = divmod(int(np.argmin(np.abs(np.subtract.outer(mine, theirs)))), len(theirs))
        return float(np.linalg.norm((self.boxes[mine[a]] - other.boxes[theirs[b]]).reshape(2, 2).mean(0)))


def letterbox(frames: torch.Tensor) -> torch.Tensor:
    """Frames [n, height, width, 3] red green blue 0..1 → [n, 3, 640, 640] blue green red 0..255, at the top left, on grey."""
    height, width = frames.shape[1:3]
    ratio = min(SIZE / height, SIZE / width)
    size = int(height * ratio), int(width * ratio)
    small = F.interpolate(frames.movedim(-1, 1), size, mode="bilinear")
    picture = small.new_full((len(frames), 3, SIZE, SIZE), GREY)
    for channel in range(3):
        torch.mul(small[:, 2 - channel], 255, out=picture[:, channel, : size[0], : size[1]])
    return picture


def decode(rows: torch.Tensor, height: int, width: int, threshold: float) -> list[np.ndarray]:
    """YOLOX's rows [n, 8400, 5 + classes] → a picture's people as x1, y1, x2, y2, score [k, 5] in pixels, best first."""
    from torchvision.ops import batched_nms

    rows, scores = rows[..., :4].float(), rows[..., 4].float() * rows[..., 5].float()
    picture, row = torch.nonzero(scores >= threshold, as_tuple=True)
    cells, strides = _cells(rows.device)
    values, scores = rows[picture, row], scores[picture, row]
    center = (values[:, :2] + cells[row]) * strides[row]
    half = values[:, 2:].clamp(max=20).exp() * strides[row] / 2
    boxes = torch.cat([center - half, center + half], 1) / min(SIZE / height, SIZE / width)
    kept = batched_nms(boxes, scores, picture, OVERLAP)
    found = torch.cat([boxes, scores[:, None]], 1)[kept].cpu().double().numpy()
    of = picture[kept].cpu().numpy()
    return [found[of == i] for i in range(len(rows))]


def _cells(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Column and row [8400, 2] and stride [8400, 1] of every output row."""
    cells, strides = [], []
    for stride in STRIDES:
        side = torch.arange(SIZE // stride, device=device)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
        cells.append(grid)
        strides.append(torch.full((len(grid), 1), stride, device=device))
    return torch.cat(cells), torch.cat(strides)


def link(found: dict[int, np.ndarray], max_people: int, detect_every: int = 1) -> list[Sightings]:
    """People from boxes [k, 5] in some frames: the most prominent `max_people` (0 = all), that one first.

    Prominent is who is large, sure and long in the picture, so that a passer-by does not take the dancer's place.
    """
    people: list[Sightings] = []
    for frame, rows in found.items():
        alive = [person for person in people if frame - max(person.boxes) <= max(FORGET, detect_every)]
        last = np.array([person.boxes[max(person.boxes)] for person in alive]).reshape(-1, 4)
        matched = {b: alive[a] for a, b in assign(iou(last, rows[:, :4]), LINKED)}
        for i, row in enumerate(rows):
            person = matched.get(i)
            if person is None:
                person = Sightings({})
                people.append(person)
            person.boxes[frame] = row[:4]
            person.weight += row[4] * (row[2] - row[0]) * (row[3] - row[1])
    prominence = attrgetter("weight")
    people.sort(key=prominence, reverse=True)
    return sorted(_rejoined(people), key=prominence, reverse=True)[:max_people] if max_people else people


def _rejoined(people: list[Sightings]) -> list[Sightings]:
    """The same people, with those put together who are one: a cut or a leap makes somebody new of a dancer.

    One is who is never seen beside the other and is about as prominent.
    """
    kept: list[Sightings] = []
    for person in people:
        fitting = [one for one in kept if person.size >= ALIKE * one.size and np.isfinite(one.away(person))]
        if fitting:
            same = min(fitting, key=person.away)
            same.boxes |= person.boxes
            same.weight += person.weight
        else:
            kept.append(person)
    return kept


def every_frame(person: Sightings, frames: int, detect_every: int) -> dict[int, np.ndarray]:
    """The person's box in every frame, from after the last look without the person to before the next one.

    Between sightings it is interpolated, also over a few looks that missed the person. Where the person has leapt, or the
    picture was cut, since the last look, it holds both places.
    """
    seen, boxes = sorted(person.boxes), {}
    for frame in range(max(seen[0] - detect_every + 1, 0), min(seen[-1] + detect_every, frames)):
        next_one = bisect_right(seen, frame)
        a, b = seen[max(next_one - 1, 0)], seen[min(next_one, len(seen) - 1)]
        first, second = person.boxes[a], person.boxes[b]
        if frame in person.boxes or a == b:
            boxes[frame] = first
        elif b - a > max(FORGET, detect_every):  # away in between
            if frame - a < detect_every:
                boxes[frame] = first
            elif b - frame < detect_every:
                boxes[frame] = second
        elif b - a <= detect_every and iou(first[None], second[None])[0, 0] < LINKED:
            boxes[frame] = np.concatenate([np.minimum(first, second)[:2], np.maximum(first, second)[2:]])
        else:
            boxes[frame] = first + (second - first) * ((frame - a) / (b - a))
    return boxes


def given_boxes(value: list | dict, frames: int) -> dict[int, np.ndarray]:
    """Core's BOUNDING_BOX (one box, a list for all frames, or a list for each frame; the last repeats) by frame [k, 5]."""
    value = [value] if isinstance(value, dict) else list(value)
    nested = value if value and isinstance(value[0], list) else [value]
    found = {}
    for frame in range(frames):
        rows = [
            [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"], box.get("score", 1.0)]
            for box in nested[min(frame, len(nested) - 1)]
        ]
        found[frame] = np.array(rows, float).reshape(-1, 5)
    return found
