"""Our drawing against what the authors' own preprocessing drew (JPEG of H.264 of their canvas)."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label
from steadydancer.pose.draw import paint
from steadydancer.pose.keypoints import empty
from steadydancer.pose.raster import Painter
from steadydancer.pose.styles import LIMBS, PALETTE, STYLES
from support import fixtures

STYLE = STYLES["SteadyDancer"]
COLORS = (PALETTE[:17, ::-1] * 0.6).astype(np.uint8).astype(int)
BODY = range(12)  # limbs of trunk, arms and legs: long enough to measure

pytestmark = pytest.mark.skipif(fixtures() is None, reason="the example pair of the authors is not here")


def frame(number: int) -> np.ndarray:
    return np.asarray(Image.open(fixtures() / "dance01" / "positive" / f"{number:04}.jpg").convert("RGB")).astype(int)


def limb_masks(picture: np.ndarray) -> dict[int, np.ndarray]:
    """Pixels of each limb: those whose colour is nearest to it and near enough, the largest connected piece."""
    y, x = np.nonzero(picture.max(-1) > 60)
    distance = np.abs(picture[y, x][:, None] - COLORS[None]).max(-1)
    nearest, masks = distance.argmin(1), {}
    for limb in BODY:
        chosen = (nearest == limb) & (distance[:, limb] < 40)
        mask = np.zeros(picture.shape[:2], bool)
        mask[y[chosen], x[chosen]] = True
        parts, count = label(mask, np.ones((3, 3)))
        if count and (largest := parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1).sum() > 250:
            masks[limb] = largest
    return masks


def axis(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Both ends of a limb [2, 2], its direction, its width about the middle, and the pixels there."""
    points = np.argwhere(mask)[:, ::-1].astype(float)
    center = points.mean(0)
    direction = np.linalg.svd(points - center, full_matrices=False)[2][0]
    along, across = (points - center) @ direction, (points - center) @ [-direction[1], direction[0]]
    middle = np.abs(along - (along.min() + along.max()) / 2) < 0.15 * np.ptp(along)
    ends = center + np.array([[along.min()], [along.max()]]) * direction
    return ends, direction, float(np.ptp(across[middle]) + 1), points[middle].astype(int)


def before_truncation(ends: np.ndarray) -> np.ndarray:
    """Limbs are drawn at whole degrees, cut towards zero: the joints lay half a degree further on, give or take a half."""
    x, y = ends[0] - ends[1]
    degrees = round(np.degrees(np.arctan2(y, x)))
    angle = np.deg2rad(degrees + np.sign(degrees) / 2)
    half = np.hypot(x, y) / 2 * np.array([np.cos(angle), np.sin(angle)])
    return ends.mean(0) + np.array([half, -half])


def joints(masks: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Joints where the axes of their limbs meet; which end of a limb is which joint follows from its neighbours."""
    lines = {limb: axis(mask)[:2] for limb, mask in masks.items()}
    touching = {
        j: [limb for limb in masks if j in LIMBS[limb]] for j in {int(j) for limb in masks for j in LIMBS[limb]}
    }
    found = {}
    for limb, (ends, _) in lines.items():
        cost = np.zeros(2)  # of the limb as it is, and turned round
        for at, joint in enumerate(LIMBS[limb]):
            for other in touching[int(joint)]:
                if other != limb:
                    cost += [np.linalg.norm(lines[other][0] - end, axis=1).min() for end in (ends[at], ends[1 - at])]
        if cost[1] < cost[0]:
            ends = ends[::-1]
        ends = before_truncation(ends)
        lines[limb] = ends, (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
        for joint, end in zip(LIMBS[limb], ends, strict=True):
            found.setdefault(int(joint), []).append((limb, end))
    solved = {}
    for joint, seen in found.items():
        left, right = 0.02 * np.eye(2), 0.02 * np.mean([end for _, end in seen], 0)
        for limb, _ in seen:
            ends, direction = lines[limb]
            across = np.eye(2) - np.outer(direction, direction)
            left, right = left + across, right + across @ ends.mean(0)
        solved[joint] = np.linalg.solve(left, right)
    return solved


def test_colours_and_widths_of_the_authors_sticks():
    table = []
    for number in (0, 20, 40, 60):
        picture = frame(number)
        for limb, mask in limb_masks(picture).items():
            ends, _, width, middle = axis(mask)
            if np.linalg.norm(ends[0] - ends[1]) > 60:
                color = np.median(picture[middle[:, 1], middle[:, 0]], axis=0)
                table.append((number, limb, np.abs(color - COLORS[limb]).max(), width))
    print("frame limb colour-off width")
    for row in table:
        print("{:5} {:4} {:10.1f} {:5.1f}".format(*row))
    assert len(table) >= 25
    assert np.median([off for *_, off, _ in table]) <= 6
    assert abs(np.median([width for *_, width in table]) - 9) <= 1  # half-width 4 on both sides of the middle


def test_our_drawing_of_their_joints_covers_theirs():
    picture = frame(0)
    height, width = picture.shape[:2]
    poses = empty(1, 1, width // 2, height // 2)
    for joint, place in joints(limb_masks(picture)).items():
        poses.points[0, 0, joint], poses.scores[0, 0, joint] = place / 2, 1
    brush = Painter(width, height)
    paint(brush, poses, 0, STYLE)
    ours, theirs = brush.canvas[..., 3] > 0, picture.max(-1) > 50
    overlap = (ours & theirs).sum() / ours.sum()
    print(
        f"{int(poses.scores.sum())} joints decoded, {ours.sum()} pixels drawn, {overlap:.1%} of them drawn by the authors too"
    )
    assert ours.sum() > 15000 and overlap >= 0.9
