"""The Dance Report on a drawn dancer: every planted fault is found by its name and its frames, and without one all is good."""

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.pose.keypoints import LEFT_HAND, RIGHT_HAND, Poses, empty
from steadydancer.report.body import MIRRORED
from steadydancer.report.figure import Figure, limits
from steadydancer.report.luma import Blurred, luma, ssim
from steadydancer.report.person import crop, lab, likeness
from steadydancer.report.report import compared, make_report, ranges, read_report, text
from steadydancer.tools.draw_dancer import dance, person

FRAMES, WIDTH, HEIGHT = 81, 144, 256
FAULTY = list(range(20, 31))


@lru_cache
def clean() -> tuple[Poses, np.ndarray]:
    poses = dance(FRAMES, width_px=WIDTH, height_px=HEIGHT)
    return poses, drawn(poses)


def drawn(poses: Poses, jacket: str = "#2f5fa8", frames=None) -> np.ndarray:
    numbers = range(len(poses.points)) if frames is None else frames
    return np.stack([np.asarray(person(poses, frame, jacket), np.float32) / 255 for frame in numbers])


def measured(frames: np.ndarray, found: Poses, asked: Poses | None = None, picture: np.ndarray | None = None):
    poses, pictures = clean()
    return make_report(
        frames,
        pictures[0] if picture is None else picture,
        asked or poses,
        found,
        replace(poses, points=poses.points[:1], scores=poses.scores[:1]),
        16.0,
    )


def figure(report, id: str) -> Figure:
    return next(one for one in report.figures if one.id == id)


def words(report) -> dict[str, str]:
    return {one.id: one.word for one in report.figures}


def not_good(report) -> set[str]:
    return {id for id, word in words(report).items() if word not in ("good", "nothing to see")}


def moved(points: list[int], way, frames=FAULTY) -> Poses:
    poses, _ = clean()
    changed = poses.points.copy()
    for point in points:
        changed[frames, 0, point] += way
    return replace(poses, points=changed)


def test_an_untouched_dance_is_good_in_every_figure():
    poses, pictures = clean()
    report = measured(pictures, poses)
    assert not not_good(report), "\n".join(text(report))
    assert report.word == "good" and report.worst == []
    assert figure(report, "oks").value == pytest.approx(1)
    assert figure(report, "speed").value == pytest.approx(1)
    assert figure(report, "first_frame").value == pytest.approx(1)


def test_a_joint_moved_by_5_per_cent():
    poses, pictures = clean()
    report = measured(pictures, moved([7], [0, 0.05 * HEIGHT]))
    joints = figure(report, "pck")
    assert (joints.word, joints.frames, joints.parts) == ("look at it", FAULTY, {"left wrist": FAULTY})
    assert set(report.worst) <= set(FAULTY)
    assert not_good(report) <= {"pck", "oks", "smoothness"}
    assert "  left wrist: frames 20-30" in text(report)


def test_a_recoloured_jacket():
    poses, pictures = clean()
    report = measured(np.concatenate([pictures[:30], drawn(poses, "#a8322f", range(30, FRAMES))]), poses)
    colour = figure(report, "colour")
    assert colour.word == "broken" and colour.frames == list(range(30, FRAMES))
    assert colour.parts["torso"] == colour.parts["upper arms"] == colour.frames
    assert "thighs" not in colour.parts and "face" not in colour.parts


def test_a_missing_limb_and_an_added_one():
    poses, pictures = clean()
    scores = poses.scores.copy()
    scores[FAULTY, 0, 4] = 0
    lacking = replace(poses, scores=scores)
    missing = figure(measured(pictures, lacking), "limbs_missing")
    assert (missing.word, missing.parts) == ("look at it", {"right forearm": FAULTY})
    extra = figure(measured(pictures, poses, asked=lacking), "limbs_extra")
    assert (extra.word, extra.parts) == ("look at it", {"right forearm": FAULTY})


def test_every_tenth_frame_brightened():
    poses, pictures = clean()
    bright = pictures.copy()
    bright[10:80:10] = np.minimum(bright[10:80:10] * 1.05, 1)
    report = measured(bright, poses)
    flicker = figure(report, "flicker")
    assert flicker.word == "broken" and flicker.frames == list(range(10, 80, 10))
    assert words(report)["jump"] == "good" and words(report)["pck"] == "good"


@pytest.mark.parametrize("frames", [range(FRAMES), range(30, 50)])
def test_left_and_right_exchanged(frames):
    poses, pictures = clean()
    points = poses.points.copy()
    for frame in frames:
        points[frame, 0, :18] = poses.points[frame, 0, MIRRORED]
    report = measured(pictures, replace(poses, points=points))
    facing = figure(report, "facing")
    assert facing.word == "broken" and facing.frames == list(frames)


def test_a_jump_at_frame_40():
    """The whole picture moves, and what was in it."""
    poses, pictures = clean()
    shift = round(0.05 * WIDTH)
    jumped = pictures.copy()
    jumped[40:, :, shift:], jumped[40:, :, :shift] = pictures[40:, :, :-shift], pictures[40:, :, :1]
    report = measured(jumped, moved(list(range(18)), [shift, 0], range(40, FRAMES)))
    jump = figure(report, "jump")
    assert jump.word != "good" and jump.frames == [40], "\n".join(text(report))


def test_a_dance_that_skips_at_frame_40_jumps():
    poses, pictures = clean()
    order = [*range(40), *range(44, FRAMES), *[FRAMES - 1] * 4]
    skipped = replace(poses, points=poses.points[order])
    jump = figure(measured(pictures[order], skipped), "jump")
    assert jump.word != "good" and jump.frames == [40]
    cut = figure(measured(pictures[order], skipped, asked=skipped), "jump")
    assert cut.word == "good", "the dance itself is cut there"


def test_a_still_video():
    poses, pictures = clean()
    still = replace(poses, points=np.repeat(poses.points[:1], FRAMES, 0))
    report = measured(np.repeat(pictures[:1], FRAMES, 0), still)
    assert words(report)["speed"] == "broken" and figure(report, "speed").value < 0.3
    assert words(report)["pck"] != "good" and words(report)["flicker"] == "good"


def test_another_person_before_another_wall():
    poses, pictures = clean()
    report = measured(pictures, poses, picture=1 - pictures[0])
    assert words(report)["first_frame"] == "broken" and words(report)["colour"] == "broken"


def test_a_wandering_background():
    poses, pictures = clean()
    darker = pictures * np.linspace(1, 0.8, FRAMES, dtype=np.float32)[:, None, None, None]
    report = measured(darker, poses)
    assert words(report)["background"] == "broken" and words(report)["flicker"] == "good"


def test_shaking_joints():
    poses, pictures = clean()
    noise = np.random.default_rng(0).normal(0, 2.5, (FRAMES, 18, 2))  # 5 % of the torso
    points = poses.points.copy()
    points[:, 0, :18] += noise
    assert words(measured(pictures, replace(poses, points=points)))["smoothness"] != "good"


def test_people_lost_and_added():
    poses, pictures = clean()
    scores = poses.scores.copy()
    scores[FAULTY] = 0
    gone = figure(measured(pictures, replace(poses, scores=scores)), "people_lost")
    assert gone.word == "broken" and gone.frames == FAULTY
    two = Poses(np.repeat(poses.points, 2, 1), np.repeat(poses.scores, 2, 1), WIDTH, HEIGHT)
    two.points[:, 1, :, 0] -= 50
    two.scores[:20, 1] = 0
    added = figure(measured(pictures, two), "people_added")
    assert added.word == "broken" and added.frames == list(range(20, FRAMES))


def test_people_in_another_order_are_the_same_people():
    poses, pictures = clean()
    two = Poses(np.repeat(poses.points, 2, 1), np.repeat(poses.scores, 2, 1), WIDTH, HEIGHT)
    two.points[:, 1, :, 0] += 20
    swapped = two.select([1, 0])
    report = measured(pictures, swapped, asked=two)
    assert figure(report, "oks").value == pytest.approx(1) and words(report)["people_added"] == "good"


def test_hands_out_of_place():
    poses, pictures = clean()
    hands = [*range(LEFT_HAND.start, LEFT_HAND.stop), *range(RIGHT_HAND.start, RIGHT_HAND.stop)]
    report = measured(pictures, moved(hands, [15, 0], range(FRAMES)))
    assert not_good(report) == {"hands"}


def test_an_upper_body_alone_is_measured():
    poses, pictures = clean()
    scores = poses.scores.copy()
    scores[:, :, [8, 9, 10, 11, 12, 13]] = 0
    half = replace(poses, scores=scores)
    report = measured(pictures, half, asked=half)
    assert not_good(report) <= {"flicker", "background"}, "its legs are in the picture and not in the poses"
    assert words(report)["pck"] == words(report)["colour"] == words(report)["speed"] == "good"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda poses: replace(poses, points=poses.points[:60], scores=poses.scores[:60]),
            "81 frames, the poses have 60",
        ),
        (lambda poses: replace(poses, width=WIDTH * 2), "another shape"),
        (lambda poses: empty(FRAMES, 1, WIDTH, HEIGHT), "nobody in the poses"),
    ],
)
def test_what_cannot_be_compared_is_said(change, said):
    poses, pictures = clean()
    with pytest.raises(ValueError, match=said):
        measured(pictures, poses, asked=change(poses))


def test_one_frame_is_no_video():
    poses, pictures = clean()
    with pytest.raises(ValueError, match="one frame"):
        measured(pictures[:1], poses)


def test_longer_poses_of_another_size_are_cut_and_scaled():
    poses, pictures = clean()
    found = replace(poses, points=poses.points[:41], scores=poses.scores[:41])
    report = measured(pictures[:41], found, asked=poses.resized(2 * WIDTH, 2 * HEIGHT))
    assert not not_good(report) and report.notes == ["The poses go on to frame 81; the first 41 are compared."]


def test_nobody_in_the_result():
    _, pictures = clean()
    report = measured(pictures, empty(FRAMES, 0, WIDTH, HEIGHT))
    assert words(report)["people_lost"] == "broken" and "Nobody was found in the result." in report.notes
    assert words(report)["colour"] == "nothing to see"


def test_cancel_ends_it():
    poses, pictures = clean()
    with pytest.raises(Cancelled):
        make_report(pictures, pictures[0], poses, poses, poses, 16.0, cancelled=lambda: True)


def test_json_brings_the_report_back_and_two_are_compared():
    poses, pictures = clean()
    report, other = measured(pictures, poses), measured(pictures, moved([7], [0, 0.05 * HEIGHT]))
    again = read_report(report.to_json())
    assert text(again) == text(report) and json.loads(report.to_json())["word"] == "good"
    table = compared(["a", "b"], [again, other])
    (row,) = (line for line in table if line.startswith("joints in place"))
    assert "good 1.000*" in row and "look at it 0.944" in row
    for wrong in ("{", "[]", json.dumps({"kind": "other", "version": 1})):
        with pytest.raises(ValueError, match="no Dance Report"):
            read_report(wrong)


def test_likeness_and_drift():
    random = np.random.default_rng(0)
    picture, other = random.normal(size=(2, 64))
    shares = np.linspace(0, 1, 21)[:, None]
    features = (1 - shares) * picture + shares * other
    alike, drift = likeness(features, np.arange(0, 81, 4), picture, 81)
    assert alike.curve[0] == pytest.approx(1) and alike.word == "broken" and drift.word == "broken"
    steady, none = likeness(np.repeat(picture[None], 21, 0), np.arange(0, 81, 4), picture, 81)
    assert (steady.word, none.word) == ("good", "good") and none.value == pytest.approx(0, abs=1e-9)


def test_ssim_is_the_published_one():
    """By the formula with scipy's Gaussian, which is written without ours."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    a = gaussian_filter(random.uniform(0, 255, (64, 48)), 1).astype(np.float32)
    b = np.clip(a + random.normal(0, 8, a.shape), 0, 255).astype(np.float32)

    def mean(x):
        return gaussian_filter(x.astype(np.float64), 1.5, truncate=3.5)[5:-5, 5:-5]

    mu, nu = mean(a), mean(b)
    xx, yy, xy = mean(a * a) - mu**2, mean(b * b) - nu**2, mean(a * b) - mu * nu
    c1, c2 = 2.55**2, 7.65**2
    wanted = ((2 * mu * nu + c1) * (2 * xy + c2) / ((mu**2 + nu**2 + c1) * (xx + yy + c2))).mean()
    assert ssim(Blurred(a), Blurred(b)) == pytest.approx(wanted, abs=2e-4)
    assert ssim(Blurred(a), Blurred(a)) == pytest.approx(1)


def test_luma_is_shrunk_to_a_short_side_of_about_256():
    assert luma(np.ones((1024, 576, 3), np.float32)).shape == (512, 288)
    np.testing.assert_allclose(luma(np.full((30, 20, 4), 0.5, np.float32)), 127.5, rtol=1e-5)


def test_lab_of_known_colours():
    """White, and sRGB's red as CIE's tables have it."""
    np.testing.assert_allclose(lab(np.ones(3)), [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab(np.array([1.0, 0, 0])), [53.24, 80.09, 67.2], atol=0.05)


def test_every_limit_has_its_evidence_and_an_order():
    for id, limit in limits().items():
        assert limit.source and limit.evidence and limit.change, id
        assert limit.badness(limit.good) == pytest.approx(0) and limit.badness(limit.broken) == pytest.approx(1), id


def test_ranges():
    assert ranges([]) == "" and ranges([3, 5, 6, 7, 40]) == "3, 5-7, 40"


def test_a_crop_holds_the_person():
    poses, _ = clean()
    left, top, right, bottom = crop(poses, 0)
    assert 0 <= left < poses.points[0, 0, :18, 0].min() and poses.points[0, 0, :18, 1].max() < bottom <= HEIGHT
    assert crop(empty(1, 1, WIDTH, HEIGHT), 0) is None
