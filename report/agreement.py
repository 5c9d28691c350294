"""Whether the people in the result stand as the poses asked for."""

from collections.abc import Iterable

import numpy as np

from ..pose.keypoints import BODY, LEFT_HAND, RIGHT_HAND, Poses, boxes
from .body import FEW, JOINTS, LIMBS, MIRRORED, SURE, known, mean, torso
from .figure import Figure

# COCO's constants in the order of our joints; the neck, which COCO lacks, as a shoulder.
SIGMAS = np.array([
    0.026, 0.079, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, 0.025, 0.025, 0.035,
    0.035,
])  # fmt: skip
NEAR = 0.1  # of the torso, for a joint in its place
AREA_OF_BOX = (
    0.53  # a person's own area in the box around the joints, as the COCO tools take it where no outline is known
)
BETTER = 0.1  # OKS, by which exchanged sides must agree better


def agreement(asked: Poses, body: Poses, added: np.ndarray) -> list[Figure]:
    """Figures of the poses asked for and of `paired(asked, found)`, those read from the result."""
    wanted, seen, size = known(asked), known(body), torso(asked)
    people, there = wanted.sum(-1) >= FEW, np.any(seen, axis=-1)  # [frames, people]
    both = wanted & there[..., None]

    away = np.linalg.norm(body.points[:, :, BODY] - asked.points[:, :, BODY], axis=-1) / size[:, None]
    away[~seen] = np.inf
    wrong = both & (away > NEAR)
    similar = oks(asked, body)
    mirrored = Poses(body.points[:, :, MIRRORED], body.scores[:, :, MIRRORED], body.width, body.height)
    exchanged = people & there & (oks(asked, mirrored) > similar + BETTER)

    missing, extra = {}, {}
    drawn = asked.scores[:, :, BODY] >= SURE  # outside the picture too
    for name, ends in LIMBS.items():
        found_whole = seen[:, :, ends].all(-1)
        missing[name] = (both[:, :, ends].all(-1) & ~found_whole).any(1)
        extra[name] = (people & found_whole & ~drawn[:, :, ends].all(-1)).any(1)

    return [
        Figure("oks", mean(np.where(there, similar, 0.0), people)),
        Figure("pck", mean(~wrong, both), _parts(JOINTS, wrong.any(1).T)),
        Figure("hands", _hands(asked, body, size)),
        Figure("limbs_missing", sum(missing.values(), np.zeros(len(added))), _parts(missing, missing.values())),
        Figure("limbs_extra", sum(extra.values(), np.zeros(len(added))), _parts(extra, extra.values())),
        Figure("facing", np.where((people & there).any(1), exchanged.any(1), np.nan)),
        Figure("people_lost", (people & ~there).sum(1).astype(float)),
        Figure("people_added", added),
    ]


def oks(asked: Poses, found: Poses) -> np.ndarray:
    """Object keypoint similarity [frames, people] over the joints asked for; one that is not found counts as 0."""
    wanted, seen = known(asked), known(found)
    bounds = boxes(asked.points[:, :, BODY], wanted)
    area = AREA_OF_BOX * np.prod(bounds[..., 2:] - bounds[..., :2], axis=-1).clip(1)
    way = ((found.points[:, :, BODY] - asked.points[:, :, BODY]) ** 2).sum(-1)
    similar = np.exp(-way / (2 * area[..., None] * (2 * SIGMAS) ** 2)) * seen
    return (similar * wanted).sum(-1) / wanted.sum(-1).clip(1)


def _hands(asked: Poses, body: Poses, size: np.ndarray) -> np.ndarray:
    points = [*range(LEFT_HAND.start, LEFT_HAND.stop), *range(RIGHT_HAND.start, RIGHT_HAND.stop)]
    away = np.linalg.norm(body.points[:, :, points] - asked.points[:, :, points], axis=-1) / size[:, None]
    both = (asked.scores[:, :, points] >= SURE) & (body.scores[:, :, points] >= SURE)
    return mean(away <= NEAR, both)


def _parts(names: Iterable[str], faults: Iterable[np.ndarray]) -> dict[str, list[int]]:
    return {name: np.flatnonzero(frames).tolist() for name, frames in zip(names, faults) if np.any(frames)}
