"""Drawing: the authors' canvas, OpenCV's and our own rasteriser against each other, and each style's rules."""

from dataclasses import replace

import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.pose.draw import draw
from steadydancer.pose.keypoints import FACE
from steadydancer.pose.raster import Painter
from steadydancer.pose.styles import HAND_COLORS, HAND_DOT, PALETTE, STYLES
from support import GOLDEN
from support.opencv_painter import OpenCVPainter
from support.poses import canvas, clip, golden_aligned, walker

SD = STYLES["SteadyDancer"]


@pytest.mark.parametrize(("width", "height", "limb"), [(480, 832, 3.3), (576, 1024, 4.0), (720, 1280, 5.0)])
def test_limbs_are_as_wide_a_part_of_the_picture_at_every_size(width, height, limb):
    """The authors draw for 576p whatever the video's size, and resize: 3.3 pixels at 480p, 5 at 720p."""
    poses = clip(np.zeros((1, 134, 2)), width=width, height=height, score=0.0)
    poses.points[0, 0, 8:10], poses.scores[0, 0, 8:10] = [(width / 2, 100), (width / 2, 400)], 1.0
    (picture,) = draw(poses, SD)
    assert picture[250].max(-1).sum() / picture[250].max() == pytest.approx(limb, abs=0.5)


def test_saved_palette_has_red_and_blue_exchanged():
    picture = canvas(golden_aligned(np.load(GOLDEN / "pose_align.npz")), SD, Painter)
    colors = {tuple(color) for color in np.unique(picture[picture.any(-1)], axis=0).tolist()}
    limbs = {tuple(int(v * 0.6) for v in color) for color in PALETTE[:17, ::-1].tolist()}
    assert limbs <= colors and (255, 0, 0) in colors  # hand dots are blue before the exchange
    assert tuple(HAND_DOT.tolist()) == (0, 0, 255)


@pytest.mark.parametrize("name", STYLES)
def test_both_rasterisers_agree_in_every_style(name):
    poses = clip(walker(2, height=300, x=200), walker(2, height=250, x=420, phase=1), width=640, height=480)
    poses.points[:, :, FACE] = poses.points[:, :, [0]] + np.random.default_rng(0).uniform(-20, 20, (68, 2))
    ours, theirs = (draw(poses, STYLES[name], make) for make in (Painter, OpenCVPainter))
    assert ours.shape == (2, 480, 640, 3) and ours.dtype == np.float32 and 0.5 < ours.max() <= 1
    drawn = ours.any(-1) | theirs.any(-1)
    assert (np.abs(ours - theirs) < 0.26).all(-1)[drawn].mean() > 0.95


def test_discs_equal_opencv():
    for radius in (1, 2, 3, 4):
        a, b = Painter(40, 40), OpenCVPainter(40, 40)
        centers, colors = np.array([[20, 20], [2, 38], [39, 0]]), np.full((3, 4), 255, np.uint8)
        for brush in (a, b):
            brush.discs(centers, radius, colors)
        np.testing.assert_array_equal(a.canvas, b.canvas)


def test_a_second_frame_does_not_show_the_first():
    poses = clip(walker(2, height=300, x=150, speed=300), width=640, height=480)
    both = draw(poses, SD, Painter)
    alone = draw(replace(poses, points=poses.points[1:], scores=poses.scores[1:]), SD, Painter)
    np.testing.assert_array_equal(both[1], alone[0])


def test_steadydancer_style_leaves_faces_out_and_dwpose_shows_them():
    poses = clip(walker(1, height=300, x=200), width=640, height=480)
    poses.scores[:] = 0
    poses.scores[:, :, FACE], poses.points[:, :, FACE] = 1, [300, 300]
    assert not draw(poses, SD).any()
    assert draw(poses, STYLES["DWPose"])[0, 300, 300].tolist() == [1, 1, 1]


def test_order_of_people_differs_between_dwpose_and_controlnet_aux():
    behind, front = walker(1, height=300, x=300), walker(1, height=300, x=303)
    pictures = [draw(clip(behind, front, width=640, height=480), STYLES[name]) for name in ("DWPose", "controlnet_aux")]
    assert (pictures[0] != pictures[1]).any()


def test_points_below_the_threshold_and_far_outside_are_left_out_quickly():
    poses = clip(walker(1, height=300, x=200), width=640, height=480)
    poses.scores[:, :, 4] = SD.threshold
    poses.points[:, :, 10] = 1e9
    picture = draw(poses, SD, Painter)
    assert np.isfinite(picture).all()
    wrist = tuple((PALETTE[4, ::-1] / 255).tolist())
    assert not (np.abs(picture - wrist) < 0.01).all(-1).any()


def test_progress_and_cancel():
    poses, seen = clip(walker(5), width=64, height=64), []
    draw(poses, SD, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]
    seen.clear()
    with pytest.raises(Cancelled):
        draw(poses, SD, progress=lambda done, total: seen.append(done), cancelled=lambda: len(seen) >= 2)
    assert seen == [1, 2]


def test_hand_colours_are_the_rainbow():
    assert HAND_COLORS[0].tolist() == [255, 0, 0] and HAND_COLORS[1].tolist() == [255, 77, 0]


@pytest.mark.parametrize("make", [Painter, OpenCVPainter])
def test_a_body_without_hands_and_nobody_at_all(make):
    poses = clip(walker(1, height=300, x=200), width=640, height=480)
    poses.scores[:, :, 18:] = 0
    assert draw(poses, STYLES["DWPose"], make).any()
    poses.scores[:] = 0
    assert not draw(poses, STYLES["DWPose"], make).any()
