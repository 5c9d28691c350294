"""What should stand still and does not: flicker, jumps, the first frame, the background."""

from collections.abc import Callable

import numpy as np

from ..base.cancel import IsCancelled, stop_if
from ..pose.keypoints import BODY, Poses
from .body import known, mean, torso
from .figure import Figure
from .luma import Blurred, luma, ssim
from .mask import people_mask

STILL = 0.01  # torsos a frame that a person who stands still may move
ROUND = 8  # frames before and after that tell what is usual
LEAST_CHANGE, LEAST_MOTION = 0.5, 0.03  # levels and torsos a frame that a codec and the pose reader make of nothing


def stability(
    frames: np.ndarray,
    picture: np.ndarray,
    asked: Poses,
    found: Poses,
    body: Poses,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: IsCancelled = lambda: False,
) -> list[Figure]:
    """Figures of frames [n, height, width, 3], 0..1, beside the picture of the same size. Raises Cancelled.

    `asked` and `found` cover whoever is no background, `body` are the people of `found` in the order of `asked`.
    """
    count = len(frames)
    ssims, flicker, change, lasting, background, first = (np.full(count, np.nan) for _ in range(6))
    sizes = [(poses, torso(poses)) for poses in (asked, found)]
    still = motion(asked) < STILL  # [frames, people], since the frame before
    last: list[tuple[Blurred, np.ndarray]] = []  # up to four frames: their luma, and where people are
    for frame in range(count):
        stop_if(cancelled)
        now = Blurred(luma(frames[frame]))
        masks = [people_mask(poses, frame, now.levels.shape, size) for poses, size in sizes]
        everybody = np.any(np.concatenate(masks), axis=0)
        if not frame:
            first[0], beginning, was = ssim(now, Blurred(luma(picture))), now, everybody
        last = [*last[-3:], (now, everybody)]
        background[frame] = mean_where(np.abs(now.levels - beginning.levels), ~(everybody | was))
        if frame:
            ssims[frame] = ssim(last[-2][0], now)
            change[frame] = mean_where(np.abs(now.levels - last[-2][0].levels), ~(everybody | last[-2][1]))
        if frame > 1:
            moving = np.logical_or.reduce([mask for _, mask in last[-3:]])
            if still[frame - 1].all() and still[frame].all():
                moving[:] = False
            before, middle, after = (blurred.levels for blurred, _ in last[-3:])
            flicker[frame - 1] = mean_where(np.abs(before - 2 * middle + after), ~moving)
        if frame > 2:
            lasting[frame - 1] = mean_where(np.abs(now.levels - last[0][0].levels), ~(everybody | last[0][1]))
        progress(frame + 1, count)
    shifted = np.fmin(usual(change, LEAST_CHANGE), usual(lasting, LEAST_CHANGE))
    return [
        Figure("ssim", ssims),
        Figure("flicker", peaks(flicker, 1 / 2)),
        Figure("jump", np.fmax(shifted, usual(leaps(asked, body), LEAST_MOTION))),
        Figure("first_frame", first),
        Figure("background", background),
    ]


def motion(poses: Poses) -> np.ndarray:
    """[frames, people] mean way of the joints since the frame before, in torsos; 0 in the first frame and for the unseen."""
    seen, points = known(poses), poses.points[:, :, BODY]
    both = seen[1:] & seen[:-1]
    way = np.linalg.norm(np.diff(points, axis=0), axis=-1) / torso(poses)[:, None]
    steps = (way * both).sum(-1) / both.sum(-1).clip(1)
    return np.concatenate([np.zeros((1, points.shape[1])), steps])


def mean_where(values: np.ndarray, where: np.ndarray) -> float:
    """The mean of the values where the mask holds; not a number where it nowhere does."""
    return float(values[where].mean()) if where.any() else np.nan


def peaks(curve: np.ndarray, share: float) -> np.ndarray:
    """The curve without what one frame's differences bring into its two neighbours: that share of the larger of them."""
    sides = np.concatenate([[0.0], np.nan_to_num(curve), [0.0]])
    larger = np.maximum(sides[:-2], sides[2:])
    return np.where(sides[1:-1] >= larger, curve, np.maximum(curve - larger * share, 0.0))


def leaps(asked: Poses, body: Poses) -> np.ndarray:
    """How far joints leap away from the poses and stay there, in torsos [frames]; slow straying is no leap.

    Half the third difference, 1.5 times a step in its frame and 0.5 times beside it, and no more than what lasts.
    """
    error = (body.points - asked.points)[:, :, BODY] / torso(asked)[:, None, None]
    seen, curve = known(asked) & known(body), np.full(len(error), np.nan)
    if len(error) > 3:
        all_seen = seen[3:] & seen[2:-1] & seen[1:-2] & seen[:-3]
        step = np.linalg.norm(np.diff(error, 3, axis=0), axis=-1) / 2
        stays = np.linalg.norm(error[3:] - error[:-3], axis=-1)
        curve[2:-1] = mean(np.minimum(step, stays), all_seen)
    return peaks(curve, 0.4)  # a third, and some for what the pose reader adds


def usual(curve: np.ndarray, least: float) -> np.ndarray:
    """Each value divided by the median of 8 on both sides, itself left out, and of at least `least`."""
    out = np.full(len(curve), np.nan)
    for frame, value in enumerate(curve):
        near = np.r_[curve[max(0, frame - ROUND) : frame], curve[frame + 1 : frame + 1 + ROUND]]
        near = near[np.isfinite(near)]
        if len(near) and np.isfinite(value):
            out[frame] = value / max(float(np.median(near)), least)
    return out
