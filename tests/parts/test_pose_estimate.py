"""The video pipeline with nets that really localise: geometry, channel order, batches, policies, memory, cancel."""

import numpy as np
import pytest
import torch
from steadydancer.base.cancel import Cancelled
from steadydancer.pose import detect
from steadydancer.pose.crops import MIRRORED, decode, regions
from steadydancer.pose.estimate import Net, Settings, estimate, filled, in_batches, out_of_memory
from steadydancer.pose.keypoints import FACE, LEFT_HAND, empty, from_coco
from support.dots import DotsDetector, DotsPose, person, picture

CPU = torch.device("cpu")


class Counted:
    """A net that counts its calls and items."""

    def __init__(self, net, limit=10**9):
        self.net, self.calls, self.items, self.limit = net.eval(), 0, 0, limit

    def __call__(self, x):
        if len(x) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        self.calls, self.items = self.calls + 1, self.items + len(x)
        with torch.no_grad():
            return self.net(x)


def nets(batch: int = 4, limit: int = 10**9, step: int = 4) -> tuple[Net, Net]:
    return Net(Counted(DotsDetector(), limit), CPU, batch), Net(Counted(DotsPose(step), limit), CPU, batch, 288, 384)


def clip(count: int, width: int = 480, height: int = 640, skip: tuple = ()) -> tuple[torch.Tensor, np.ndarray]:
    truth = np.stack([person(width, height) + [2.0 * f, f] for f in range(count)])
    images = [picture(t, width, height, 7, decoy=False) * (f not in skip) for f, t in enumerate(truth)]
    return torch.from_numpy(np.stack(images)), truth


@pytest.mark.parametrize(("width", "height"), [(720, 1280), (1280, 720), (640, 640), (500, 333)])
def test_all_points_are_found_within_two_pixels(width, height):
    truth = person(width, height)
    image = torch.from_numpy(picture(truth, width, height, max(4.0, max(width, height) / 110)))[None]
    poses = estimate(image, *nets(step=1), Settings())
    wanted, _ = from_coco(truth, np.ones(133))
    error = np.linalg.norm(poses.points[0, 0] - wanted, axis=-1)
    print(f"{width}×{height}: mean {error.mean():.2f} px, worst {error.max():.2f} px")
    assert error.mean() <= 2 and error.max() <= 8
    assert (poses.scores > 0.5).all() and (poses.scores <= 1).all()


@pytest.mark.parametrize("box", [(-0.2, 0.1, 0.5, 0.9), (0.4, 0.3, 1.2, 1.3)])
def test_a_person_partly_outside_the_frame(box):
    width, height = 600, 800
    truth = person(width, height, box=box)
    image = torch.from_numpy(picture(truth, width, height, 8, decoy=False))[None]
    given = {0: np.array([[*(np.array(box) * [width, height, width, height]), 1.0]])}
    poses = estimate(image, None, nets(step=1)[1], Settings(), boxes=given)
    inside = ((truth > 10) & (truth < np.array([width, height]) - 10)).all(-1)
    inside_ours = from_coco(truth, inside.astype(float))[1] > 0
    wanted, _ = from_coco(truth, np.ones(133))
    error = np.linalg.norm(poses.points[0, 0] - wanted, axis=-1)[inside_ours]
    assert 60 < inside.sum() < 133 and error.mean() <= 2


def test_the_detector_sees_blue_green_red_and_the_pose_net_red_green_blue():
    seen = {}

    class Spy(torch.nn.Module):
        def __init__(self, name, net):
            super().__init__()
            self.name, self.net = name, net

        def forward(self, x):
            seen[self.name] = x
            with torch.no_grad():
                return self.net(x)

    image = torch.zeros(1, 100, 50, 3)
    image[..., 0], image[..., 1] = 1.0, 0.5
    estimate(
        image, Net(Spy("detector", DotsDetector()), CPU, 1), Net(Spy("pose", DotsPose(4)), CPU, 1, 288, 384), Settings()
    )
    assert seen["detector"][0, :, 5, 5].tolist() == pytest.approx([0, 127.5, 255])
    assert seen["detector"][0, :, 5, 500].tolist() == pytest.approx([114, 114, 114])
    expected = [(255 - 123.675) / 58.395, (127.5 - 116.28) / 57.12, -103.53 / 57.375]
    assert seen["pose"][0, :, 192, 144].tolist() == pytest.approx(expected, abs=1e-4)


def test_calls_are_as_few_as_the_batch_allows():
    frames, truth = clip(21)
    detector, pose = nets(batch=8)
    poses = estimate(frames, detector, pose, Settings(detect_every=5))
    assert (detector.run.calls, detector.run.items) == (1, 5)
    assert (pose.run.calls, pose.run.items) == (3, 21)
    error = np.linalg.norm(poses.points[:, 0] - from_coco(truth, np.ones((21, 133)))[0], axis=-1)
    assert error.mean() <= 5  # boxes between the looks are interpolated
    assert poses.tracked


def test_memory_running_out_halves_the_batch():
    frames, _ = clip(8)
    whole = estimate(frames, *nets(), Settings())
    detector, pose = nets(batch=8, limit=3)
    halved = estimate(frames, detector, pose, Settings())
    np.testing.assert_allclose(halved.points, whole.points)
    assert pose.run.calls == 4
    with pytest.raises(RuntimeError, match="out of memory"):
        estimate(frames, *nets(batch=8, limit=0), Settings())
    assert not out_of_memory(RuntimeError("shape mismatch"))


def test_cancel_between_batches_and_progress_to_the_end():
    frames, _ = clip(6)
    seen = []
    estimate(frames, *nets(2), Settings(detect_every=3), progress=lambda *step: seen.append(step))
    looks = [(done, 2, "Finding people") for done in (0, 2)]
    assert seen == looks + [(done, 6, "Reading poses") for done in (0, 2, 4, 6)]
    with pytest.raises(Cancelled):
        estimate(frames, *nets(2), Settings(), cancelled=lambda: len(seen) > 0)


@pytest.mark.parametrize(
    ("missing", "no_person"),
    [("empty", "empty"), ("previous", "empty"), ("interpolate", "empty"), ("empty", "whole frame")],
)
def test_frames_without_the_person(missing, no_person):
    frames, _ = clip(30, skip=range(5, 25))
    poses = estimate(frames, *nets(16), Settings(no_person=no_person))
    poses = filled(poses, missing)
    gone = poses.points[10, 0]
    assert np.abs(poses.points[25, 0, :18] - poses.points[4, 0, :18]).mean() > 10  # back, and the same person
    if missing == "previous":
        np.testing.assert_array_equal(gone, poses.points[4, 0])
    elif missing == "interpolate":
        np.testing.assert_allclose(gone, poses.points[4, 0] + (poses.points[25, 0] - poses.points[4, 0]) * 6 / 21)
    elif no_person == "empty":
        assert not poses.present[10].any()
    else:
        assert poses.present.shape == (30, 1) and poses.present.all()


def test_lost_at_both_ends_of_the_clip():
    """As in core's nodes: interpolation holds the nearest pose there, `previous` knows none before the first."""
    frames, _ = clip(30, skip=(*range(5), *range(25, 30)))
    for missing, first in (("interpolate", 5), ("previous", None), ("empty", None)):
        poses = filled(estimate(frames, *nets(16), Settings()), missing)
        if first is None:
            assert not poses.present[:5].any()
        else:
            np.testing.assert_array_equal(poses.points[0], poses.points[first])
        if missing == "empty":
            assert not poses.present[25:].any()
        else:
            np.testing.assert_array_equal(poses.points[29], poses.points[24])


def test_who_comes_in_between_two_looks_is_read_from_the_first_frame():
    frames, truth = clip(10, skip=(0, 1))
    poses = estimate(frames, *nets(16), Settings(detect_every=5))
    error = np.linalg.norm(poses.points[2:, 0] - from_coco(truth, np.ones((10, 133)))[0][2:], axis=-1)
    assert error.mean() <= 5


def test_nobody_at_all():
    black = torch.zeros(3, 64, 48, 3)
    poses = filled(estimate(black, *nets(), Settings()), "interpolate")
    assert poses.points.shape[:2] == (3, 0) and not poses.present.any()
    detector, pose = nets()
    estimate(black, detector, pose, Settings(no_person="whole frame"))
    assert pose.run.items == 3


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_pictures(channels):
    frames, _ = clip(2)
    other = (
        frames.mean(-1, keepdim=True) if channels == 1 else torch.cat([frames, torch.ones_like(frames[..., :1])], -1)
    )
    same = other.expand(-1, -1, -1, 3) if channels == 1 else frames
    given = {f: np.array([[50.0, 50, 400, 600, 1]]) for f in range(2)}
    a, b = (estimate(x, None, nets()[1], Settings(), boxes=given) for x in (other, same))
    np.testing.assert_array_equal(a.points, b.points)


def test_parts_that_are_not_asked_for_are_unknown():
    frames, _ = clip(1)
    poses = estimate(frames, *nets(), Settings(hands=False, face=False))
    assert (poses.scores[..., LEFT_HAND] == 0).all() and (poses.scores[..., FACE] == 0).all()
    assert (poses.scores[..., :18] > 0).all()


def test_flip_test_averages_with_the_mirror_image():
    assert sorted(MIRRORED) == list(range(133)) and [MIRRORED[j] for j in MIRRORED] == list(range(133))
    assert [MIRRORED[j] for j in (0, 1, 5, 17, 19, 23, 31, 53, 59, 68, 71, 91, 111)] == [
        0,
        2,
        6,
        20,
        22,
        39,
        31,
        53,
        68,
        59,
        77,
        112,
        132,
    ]
    frames, truth = clip(1)

    class Mirrorable(torch.nn.Module):
        """Finds the dots in mirrored crops too, and calls them by their mirrored names, as a trained net does."""

        calls = 0

        def forward(self, x):
            Mirrorable.calls += 1
            with torch.no_grad():
                x, y = DotsPose(4)(x)
            return (x, y) if Mirrorable.calls % 2 else (x[:, MIRRORED], y[:, MIRRORED])

    plain, mirrored = (
        estimate(frames, nets()[0], Net(Mirrorable(), CPU, 4, 288, 384), Settings(flip_test=flip))
        if flip
        else estimate(frames, *nets(), Settings())
        for flip in (False, True)
    )
    assert Mirrorable.calls == 2
    assert np.abs(plain.points - mirrored.points).mean() < 4


def test_simcc_decoding():
    x, y = torch.zeros(1, 133, 576), torch.zeros(1, 133, 768)
    x[0, 0, 100], y[0, 0, 300] = 0.7, 1.9
    x[0, 1, 0], y[0, 1, 0] = 3.0, 2.0
    x[0, 2], y[0, 2] = -1, 0.5
    points, scores = decode((x, y), np.array([[400.0, 500, 288, 384]]))
    assert points[0, 0].tolist() == pytest.approx([50 + 400 - 144, 150 + 500 - 192])
    assert scores[0, :3].tolist() == pytest.approx([0.7, 1.0, 0.0])
    assert points[0, 2].tolist() == [-1, -1]


def test_regions_have_margin_and_aspect():
    where = regions(np.array([[0.0, 0, 100, 100], [0, 0, 10, 400]]), 288, 384)
    np.testing.assert_allclose(where, [[50, 50, 125, 125 / 0.75], [5, 200, 375, 500]])


def test_detector_rows_to_boxes():
    rows = torch.zeros(2, 8400, 85)
    for place, (x, size, sure) in {
        80 * 3 + 4: (0.5, 3.0, 0.9),
        80 * 3 + 5: (-0.4, 3.0, 0.8),
        6400 + 40: (0.5, 1.0, 0.6),
    }.items():
        rows[0, place, :6] = torch.tensor([x, 0.5, size, size, sure, 1.0])
    rows[1, 0, :7] = torch.tensor([0, 0, 3, 3, 0.9, 0.1, 1.0])  # surely something, but no person
    first, second = detect.decode(rows, 1280, 640, 0.5)
    assert len(second) == 0 and len(first) == 2  # the second row overlaps the first
    side = np.exp(3.0) * 8
    np.testing.assert_allclose(
        first[0, :4], (np.array([4.5, 3.5, 4.5, 3.5]) * 8 + np.array([-1, -1, 1, 1]) * side / 2) * 2, rtol=1e-5
    )
    assert first[:, 4] == pytest.approx([0.9, 0.6])


def test_the_dancer_is_kept_when_a_passer_by_is_surer():
    dancer, other = np.array([100.0, 100, 300, 700]), np.array([500.0, 300, 560, 480])
    found = {f: np.array([[*(other + 2 * f), 0.95], [*dancer, 0.7]]) for f in range(0, 30, 3)}
    (first,) = detect.link(found, 1)
    np.testing.assert_array_equal(np.stack(list(first.boxes.values())), np.tile(dancer, (10, 1)))
    assert sorted(detect.every_frame(first, 30, 3)) == list(range(30))
    assert len(detect.link(found, 0)) == 2


def test_the_dancer_is_not_lost_between_looks_far_apart():
    found = {f: np.array([[100.0, 100, 300, 700, 0.9]]) for f in range(0, 81, 40)}
    (only,) = detect.link(found, 0, 40)
    assert sorted(detect.every_frame(only, 81, 40)) == list(range(81))


LEFT, RIGHT = np.array([100.0, 100, 300, 700, 0.9]), np.array([600.0, 120, 800, 720, 0.9])


def test_the_dancer_is_kept_over_a_cut_or_a_leap():
    """Boxes that no longer overlap would make a second person, and the rest of the dance would be lost."""
    found = {f: np.stack([LEFT if f < 40 else RIGHT]) for f in range(0, 81, 5)}
    (dancer,) = detect.link(found, 1, 5)
    boxes = detect.every_frame(dancer, 81, 5)
    assert sorted(boxes) == list(range(81))
    for frame in (36, 37, 38, 39):  # somewhere here it happens: both places are seen
        assert boxes[frame].tolist() == [100, 100, 800, 720]
    assert boxes[35].tolist() == LEFT[:4].tolist() and boxes[40].tolist() == RIGHT[:4].tolist()


def test_the_dancer_is_kept_over_cuts_though_somebody_smaller_is_always_there():
    other = np.array([400.0, 200, 500, 500, 0.9])
    found = {f: np.stack([other, RIGHT if 30 <= f < 55 else LEFT]) for f in range(0, 81, 5)}
    (dancer,) = detect.link(found, 1, 5)
    assert dancer.boxes[0].tolist() == LEFT[:4].tolist() and dancer.boxes[40].tolist() == RIGHT[:4].tolist()
    assert sorted(dancer.boxes) == list(range(0, 81, 5))


def test_who_comes_late_is_no_statue_before():
    poses = empty(9, 2, 100, 100)
    poses.points[:, 0], poses.scores[:, 0] = 10, 1.0
    poses.points[5:8, 1], poses.scores[5:8, 1] = 50, 1.0
    poses.scores[6] = 0.0
    present = filled(poses, "interpolate").present
    assert present[:, 0].all() and present[:, 1].tolist() == [False] * 5 + [True] * 3 + [False]


def test_two_dancers_keep_their_sides_over_a_cut():
    closer = np.array([40.0, 40, 40, 40, 0])
    found = {f: np.stack([LEFT, RIGHT]) + (f >= 40) * (closer + [0, 700, 0, 700, 0]) for f in range(0, 80, 5)}
    first, second = detect.link(found, 2, 5)
    for dancer, place in ((first, LEFT), (second, RIGHT)):
        assert sorted(dancer.boxes) == list(range(0, 80, 5))
        assert all(abs(box[0] - place[0]) <= 40 for box in dancer.boxes.values())


def test_a_passer_by_does_not_fill_the_dancers_absence():
    small = np.array([500.0, 300, 560, 480, 0.95])
    found = {f: np.stack([small if 20 <= f < 60 else LEFT]) for f in range(0, 80, 5)}
    (dancer,) = detect.link(found, 1, 5)
    assert sorted(dancer.boxes) == [*range(0, 20, 5), *range(60, 80, 5)]


def test_batches_cover_everything_once():
    seen, steps = [], []
    in_batches(10, 4, lambda a, b: seen.append((a, b)), steps.append, lambda: False)
    assert seen == [(0, 4), (4, 8), (8, 10)] and steps == [0, 4, 8, 10]
