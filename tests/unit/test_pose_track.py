"""Tracking and smoothing on walkers whose identity and path are known."""

from dataclasses import replace

import numpy as np
import pytest
from steadydancer.pose.smooth import fill_gaps, smooth
from steadydancer.pose.track import assign, iou, track
from support.poses import clip, walker


def shuffled(poses, seed=0):
    """The people of each frame in random order, as detectors give them."""
    random, points, scores = np.random.default_rng(seed), poses.points.copy(), poses.scores.copy()
    for frame in range(len(points)):
        order = random.permutation(points.shape[1])
        points[frame], scores[frame] = points[frame, order], scores[frame, order]
    return replace(poses, points=points, scores=scores)


def test_crossing_people_keep_their_slots():
    truth = clip(walker(60, height=500, x=150, speed=8), walker(60, height=430, x=650, speed=-8, phase=1.5))
    tracked = track(shuffled(truth))
    assert tracked.points.shape[1] == 2 and tracked.tracked
    np.testing.assert_array_equal(tracked.points, truth.points)  # the larger one first


def test_a_person_hidden_for_a_while_comes_back_to_the_same_slot():
    truth = clip(walker(40, height=500, x=150, speed=4), walker(40, height=430, x=500, speed=4))
    truth.scores[10:18, 1] = 0
    tracked = track(shuffled(truth))
    assert tracked.points.shape[1] == 2
    np.testing.assert_array_equal(tracked.points[tracked.present], truth.points[truth.present])


def test_a_newcomer_elsewhere_gets_a_new_slot():
    truth = clip(walker(60, height=500, x=150), walker(60, height=430, x=700))
    truth.scores[10:, 0] = 0
    truth.scores[:30, 1] = 0
    assert track(truth).points.shape[1] == 2
    np.testing.assert_array_equal(track(truth).present, truth.present)


def test_noise_and_false_people_do_not_steal_a_slot():
    random = np.random.default_rng(4)
    truth = clip(walker(40, height=500, x=200, speed=5))
    points = np.concatenate([truth.points, random.uniform(0, 60, (40, 1, 134, 2)) + [700, 900]], 1)
    points[:, 0] += random.normal(0, 4, points[:, 0].shape)
    scores = np.concatenate(
        [truth.scores, np.where(random.random((40, 1, 1)) < 0.2, 0.6, 0.0) * np.ones((1, 1, 134))], 1
    )
    tracked = track(shuffled(replace(truth, points=points, scores=scores.astype(np.float32))), max_people=1)
    assert tracked.points.shape[1] == 1
    np.testing.assert_array_equal(tracked.points[:, 0], points[:, 0])


def test_nobody_stays_nobody():
    assert not track(clip(walker(3), walker(3), score=0)).present.any()


def test_iou_and_assignment():
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    b = np.array([[20, 20, 30, 25], [0, 0, 10, 20]], float)
    np.testing.assert_allclose(iou(a, b), [[0, 0.5], [0.5, 0]])
    assert assign(iou(a, b), 0.1) == [(0, 1), (1, 0)]
    assert assign(iou(a, b), 0.6) == []


def test_short_gaps_are_filled_and_long_ones_stay():
    poses = clip(walker(40, speed=3))
    truth = poses.points.copy()
    poses.scores[10:14, 0, 4], poses.points[10:14, 0, 4] = 0.05, 0
    poses.scores[20:28, 0, 4] = 0.05
    filled = fill_gaps(poses, longest=5)
    assert np.abs(filled.points[10:14, 0, 4] - truth[10:14, 0, 4]).max() < 15
    np.testing.assert_allclose(filled.scores[10:14, 0, 4], 0.9)
    np.testing.assert_allclose(filled.scores[20:28, 0, 4], 0.05)


def test_smoothing_removes_noise_without_lag():
    truth = walker(120, speed=2)
    random = np.random.default_rng(5)
    noisy = clip(truth + random.normal(0, 3, truth.shape))
    error = [np.sqrt(((p.points[:, 0] - truth) ** 2).mean()) for p in (noisy, smooth(noisy, 7))]
    assert error[1] < 0.72 * error[0]  # a parabola over 7 frames leaves 1/√3 of the noise, a little more at the ends
    clean = smooth(clip(truth), 7)
    wrist, path = clean.points[:, 0, 4] - clean.points[:, 0, 1], truth[:, 4] - truth[:, 1]
    best = min(range(-3, 4), key=lambda lag: np.abs(np.roll(wrist, -lag, 0) - path)[5:-5].sum())
    assert best == 0


def test_nothing_is_smoothed_over_a_jump():
    poses = clip(walker(30))
    poses.points[15:, 0] += 300
    smoothed = smooth(poses, 7)
    assert np.abs(smoothed.points - poses.points).max() < 10


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_short_clips_are_left_as_they_can(frames):
    poses = clip(walker(frames))
    assert np.isfinite(smooth(fill_gaps(poses, 5), 7).points).all()
