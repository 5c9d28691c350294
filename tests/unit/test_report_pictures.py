"""The Dance Report as pictures: the sheet, and picture, pose and result side by side."""

from dataclasses import replace

import numpy as np
import pytest
from steadydancer.report.report import make_report
from steadydancer.report.sheet import COLOURS, WIDTH, sheet
from steadydancer.report.side_by_side import Trio, covering
from steadydancer.tools.draw_dancer import dance, person

FRAMES, SIZE = 12, (144, 256)


@pytest.fixture(scope="module")
def made():
    poses = dance(FRAMES, width_px=SIZE[0], height_px=SIZE[1])
    pictures = np.stack([np.asarray(person(poses, frame), np.float32) / 255 for frame in range(FRAMES)])
    return poses, pictures


def report_on(poses, pictures, found):
    first = replace(poses, points=poses.points[:1], scores=poses.scores[:1])
    return make_report(pictures, pictures[0], poses, found, first, 16.0)


def test_the_sheet_shows_the_words_and_the_worst_frames(made):
    poses, pictures = made
    scores = poses.scores.copy()
    scores[5:8] = 0
    clean = sheet(report_on(poses, pictures, poses), pictures, pictures[0], poses)
    broken = sheet(report_on(poses, pictures, replace(poses, scores=scores)), pictures, pictures[0], poses)
    assert clean.dtype == np.uint8 and clean.shape[1] == broken.shape[1] == WIDTH
    red = [int((picture[:60] == COLOURS["broken"]).all(-1).sum()) for picture in (clean, broken)]
    assert red[0] == 0 < red[1], "the head says it"
    assert broken.shape[0] > clean.shape[0], "three frames below, not one"


def test_picture_pose_and_result_stand_side_by_side(made):
    poses, pictures = made
    trio = Trio(pictures, pictures[0], poses, height=128)
    assert (len(trio), trio.width, trio.height) == (FRAMES, 3 * 72, 128)
    shown = np.stack(list(trio))
    assert shown.shape == (FRAMES, 128, 216, 3)
    picture, pose, result = (shown[:, :, at : at + 72].astype(int) for at in (0, 72, 144))
    assert (picture == picture[0]).all() and (picture[0] == result[0]).all() and (result[5] != result[0]).any()
    x, y = (poses.points[5, 0, 4] / 2).astype(int)
    assert pose[5, y - 2 : y + 3, x - 2 : x + 3].max() > 200 and pose[5, :8].max() == 0


def test_a_picture_of_another_shape_is_cut_in_the_middle():
    wide = np.zeros((100, 300, 3), np.float32)
    wide[:, 100:200] = 1
    cut = covering(wide, 64, 64)
    assert cut.shape == (64, 64, 3) and cut.min() > 0.99
    assert covering(wide, 300, 100).tobytes() == wide.tobytes()
