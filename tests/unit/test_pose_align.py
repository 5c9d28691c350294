"""Alignment: the authors' numbers, and the robust mode on people whose proportions are known."""

from dataclasses import replace

import numpy as np
import pytest
from steadydancer.pose.align import align
from steadydancer.pose.augment import augment
from steadydancer.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, Poses, empty
from support import GOLDEN
from support.poses import clip, golden_aligned, length, walker

LIMBS = {
    "neck": (0, 1),
    "right upper arm": (2, 3),
    "right lower arm": (3, 4),
    "left upper arm": (5, 6),
    "left lower arm": (6, 7),
}
LEGS = {"right upper leg": (8, 9), "right lower leg": (9, 10), "left upper leg": (11, 12), "left lower leg": (12, 13)}


def test_official_gives_the_authors_numbers():
    golden = np.load(GOLDEN / "pose_align.npz")
    aligned = golden_aligned(golden)
    ours = aligned.points[:, 0] / [aligned.width, aligned.height]
    assert np.abs(ours[:, BODY] - golden["aligned.body"]).max() <= 1e-9
    assert np.abs(ours[:, FACE] - golden["aligned.faces"][:, 0]).max() <= 1e-9
    for part, hand in ((LEFT_HAND, 0), (RIGHT_HAND, 1)):
        known = aligned.scores[:, 0, part] > 0  # theirs moves the -1 of missing points too; ours have no position
        assert known.sum() > 100
        assert np.abs(ours[:, part] - golden["aligned.hands"][:, hand])[known].max() <= 1e-9


def test_official_without_a_length_leaves_the_scale_at_one():
    driving, reference = clip(walker(3)), clip(walker(1, neck=0.2))
    driving.points[:, 0, 0] = driving.points[:, 0, 1]
    assert np.isfinite(align(driving, reference, 800, 1000, mode="official").points).all()


@pytest.mark.parametrize("mode", ["official", "robust"])
def test_limbs_get_the_references_lengths(mode):
    driving = clip(walker(20, height=400, x=250))
    reference = clip(walker(1, height=620, **{"upper leg": 0.19, "upper arm": 0.2}))
    aligned = align(driving, reference, 800, 1000, mode=mode)
    for joints in (LIMBS | LEGS).values():
        np.testing.assert_allclose(length(aligned, *joints), length(reference, *joints)[0], rtol=0.03)
    np.testing.assert_allclose(aligned.points[0, 0, 1], reference.points[0, 0, 1], atol=1)


def test_pixels_of_another_target_size():
    driving, reference = clip(walker(4, height=400)), clip(walker(1))
    np.testing.assert_allclose(
        align(driving, reference, 400, 500).points, align(driving, reference, 800, 1000).points / 2, atol=1e-4
    )


def occluded_legs(poses: Poses, frames: slice) -> Poses:
    """The legs are out of sight: unsure, and guessed anywhere."""
    scores, points = poses.scores.copy(), poses.points.copy()
    scores[frames, :, 8:14] = 0.05
    points[frames, :, 8:14] = np.random.default_rng(2).uniform(-900, 900, points[frames, :, 8:14].shape)
    return replace(poses, scores=scores, points=points)


def test_robust_measures_after_the_legs_have_appeared():
    driving = occluded_legs(clip(walker(20, height=400)), slice(0, 8))
    reference = clip(walker(1, height=620, **{"lower leg": 0.25}))
    aligned = align(driving, reference, 800, 1000)
    for joints in LEGS.values():
        np.testing.assert_allclose(length(aligned, *joints)[8:], length(reference, *joints)[0], rtol=0.03)


def test_robust_half_body_reference_keeps_the_drivers_leg_proportions():
    driving = clip(walker(10, height=400))
    reference = occluded_legs(clip(walker(1, height=620)), slice(None))
    aligned = align(driving, reference, 800, 1000)
    for joints in LIMBS.values():
        np.testing.assert_allclose(length(aligned, *joints), length(reference, *joints)[0], rtol=0.03)
    for joints in LEGS.values():
        np.testing.assert_allclose(length(aligned, *joints), length(driving, *joints) * 620 / 400, rtol=0.03)


def test_robust_cropped_driver():
    driving = occluded_legs(clip(walker(10, height=900)), slice(None))
    reference = clip(walker(1, height=620))
    aligned = align(driving, reference, 800, 1000)
    for joints in LIMBS.values():
        np.testing.assert_allclose(length(aligned, *joints), length(reference, *joints)[0], rtol=0.03)


def test_robust_ignores_a_jumpy_detector():
    points, random = walker(30, height=400), np.random.default_rng(3)
    points += random.normal(0, 0.7, points.shape)
    driving = clip(points)
    for frame in (1, 7, 13):  # whole frames of nonsense, and unsure about it
        driving.points[frame, 0] = random.uniform(-5000, 5000, (134, 2))
        driving.scores[frame, 0] = 0.1
    driving.scores[20] = 0
    reference = clip(walker(1, height=620))
    aligned = align(driving, reference, 800, 1000)
    assert np.isfinite(aligned.points).all()
    good = [f for f in range(30) if f not in (1, 7, 13, 20)]
    for joints in (LIMBS | LEGS).values():
        np.testing.assert_allclose(np.median(length(aligned, *joints)[good]), length(reference, *joints)[0], rtol=0.03)
    sure = aligned.points[:, 0][aligned.scores[:, 0] >= 0.35]
    assert (sure > -300).all() and (sure < 1300).all()


def test_a_dance_begins_where_the_person_stands():
    """The video's first frame is the picture: a dancer who runs must not be put where he is two frames later."""
    driving, reference = clip(walker(10, height=400, speed=25.0)), clip(walker(1))
    aligned = align(driving, reference, 800, 1000)
    np.testing.assert_allclose(aligned.points[0, 0, 1], reference.points[0, 0, 1], atol=1e-6)


def test_robust_clamps_what_a_wrong_measurement_would_blow_up():
    driving = clip(walker(10, height=400, **{"lower arm": 0.002}))
    aligned = align(driving, clip(walker(1, height=400)), 800, 1000)
    assert (length(aligned, 3, 4) <= 2 * 1.5 * length(driving, 3, 4)).all()


def test_several_people_take_bodies_from_left_to_right():
    driving = clip(walker(8, height=400, x=600), walker(8, height=500, x=200, phase=1))
    reference = clip(walker(1, height=600, x=150, **{"upper arm": 0.1}), walker(1, height=300, x=650))
    aligned = align(driving, reference, 800, 1000)
    assert aligned.points.shape[1] == 2
    np.testing.assert_allclose(length(aligned, 2, 3, person=0), length(reference, 2, 3, person=0)[0], rtol=0.03)
    np.testing.assert_allclose(length(aligned, 2, 3, person=1), length(reference, 2, 3, person=1)[0], rtol=0.03)
    alone = align(driving, clip(walker(1)), 800, 1000)
    assert alone.points.shape[1] == 1
    np.testing.assert_allclose(length(alone, 0, 1), 0.12 * 600, rtol=0.03)


def test_nobody_is_said_in_words():
    nobody = empty(3, 0, 800, 1000)
    for driving, reference, where in (
        (nobody, clip(walker(1)), "dance"),
        (clip(walker(3)), nobody, "reference picture"),
    ):
        with pytest.raises(ValueError, match=f"No person was found in the {where}"):
            align(driving, reference, 800, 1000)


def test_negative_is_seeded_and_turns_about_the_neck():
    poses = clip(walker(200, height=400), walker(200, height=300, x=100))
    poses.points[:, :, FACE] = poses.points[:, :, [0]] + 3
    first, again, other = augment(poses, 5), augment(poses, 5), augment(poses, 6)
    np.testing.assert_array_equal(first.points, again.points)
    assert (first.points != other.points).any()
    np.testing.assert_array_equal(first.points[:, :, 1], poses.points[:, :, 1])
    np.testing.assert_array_equal(first.points[:, :, FACE], poses.points[:, :, FACE])
    offset, moved = (p.points[:, :, 10] - p.points[:, :, 1] for p in (poses, first))
    size, aspect = moved[..., 1] / offset[..., 1], moved[..., 0] / offset[..., 0] * offset[..., 1] / moved[..., 1]
    assert 0.7 <= size.min() < 0.75 and 1.25 < size.max() <= 1.3
    assert 0.6 <= aspect.min() < 0.65 and 1.35 < aspect.max() <= 1.4
    np.testing.assert_allclose(size[:, 0], size[:, 1])
    assert np.abs(np.corrcoef(size[1:, 0], size[:-1, 0])[0, 1]) < 0.3  # fresh in every frame
