"""Where the people are: YOLOX over a clip, its boxes linked from frame to frame."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .track import assign, iou
from .yolox import SIZE, STRIDES

GREY = 114.0
OVERLAP = 0.45  # non-maximum suppression
LINKED = 0.1  # the least overlap of two sightings of one person
FORGET = 15  # frames after which a box that comes back is someone new


@dataclass
class Sightings:
    """One person's boxes x1, y1, x2, y2 by frame, and how prominent the person is."""

    boxes: dict[int, np.ndarray]
    weight: float = 0.0


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
    people.sort(key=lambda person: -person.weight)
    return people[:max_people] if max_people else people


def every_frame(person: Sightings, frames: int, detect_every: int) -> dict[int, np.ndarray]:
    """The person's box in every frame from the first sighting to the last, held until the next look at the picture."""
    seen = sorted(person.boxes)
    until = min(seen[-1] + detect_every, frames)
    corners = np.stack([person.boxes[frame] for frame in seen])
    inside = np.arange(seen[0], until)
    values = np.stack([np.interp(inside, seen, corners[:, i]) for i in range(4)], 1)
    near = np.abs(inside[:, None] - np.array(seen)).min(1) <= max(FORGET, detect_every)
    return {int(frame): box for frame, box, close in zip(inside, values, near, strict=True) if close}
