"""POSE_KEYPOINT: the six exchanges that fail between core's and controlnet_aux's nodes, and round trips of ours."""

import json

import numpy as np
import pytest
from steadydancer.pose import interchange
from steadydancer.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NECK, RIGHT_HAND, Poses, from_coco

WIDTH, HEIGHT = 640, 480


def person_points(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(50, 400, (134, 2))


def flat(points: np.ndarray, confidence: float = 1.0) -> list[float]:
    return np.concatenate([points, np.full((len(points), 1), confidence)], 1).ravel().tolist()


def aux_person(points: np.ndarray, confidence: float = 1.0) -> dict:
    return {
        "pose_keypoints_2d": flat(points[BODY], confidence),
        "face_keypoints_2d": flat(np.concatenate([points[FACE], points[[14, 15]]]), confidence),
        "hand_left_keypoints_2d": flat(points[LEFT_HAND], confidence),
        "hand_right_keypoints_2d": flat(points[RIGHT_HAND], confidence),
    }


def frame(*people: dict) -> dict:
    return {"people": list(people), "canvas_width": WIDTH, "canvas_height": HEIGHT}


def hands_at_wrists(points: np.ndarray) -> np.ndarray:
    points[LEFT_HAND.start], points[RIGHT_HAND.start] = points[7] + 2, points[4] + 2
    return points


def test_absent_parts_as_null_are_unknown_not_an_error():
    person = aux_person(hands_at_wrists(person_points())) | {"hand_left_keypoints_2d": None}
    poses = interchange.read([frame(person)])
    assert (poses.scores[0, 0, LEFT_HAND] == 0).all() and (poses.scores[0, 0, RIGHT_HAND] == 1).all()


def test_empty_lists_of_openpose_are_unknown():
    person = {"pose_keypoints_2d": flat(person_points()[BODY]), "face_keypoints_2d": [], "hand_left_keypoints_2d": []}
    poses = interchange.read([frame(person)])
    assert poses.scores[0, 0].sum() == 18


def test_body_25_becomes_18_joints_and_feet():
    joints = np.arange(50, dtype=float).reshape(25, 2) + 10
    poses = interchange.read([frame({"pose_keypoints_2d": flat(joints)})])
    np.testing.assert_array_equal(poses.points[0, 0, BODY], np.delete(joints, 8, 0)[:18])
    np.testing.assert_array_equal(poses.points[0, 0, FEET], joints[19:])


def test_animals_are_left_out_with_a_warning(caplog):
    value = [{"version": "ap10k", "animals": [[1, 2, 3]], "canvas_width": WIDTH, "canvas_height": HEIGHT}]
    assert not interchange.read(value).present.any()
    assert "animals" in caplog.text


def test_written_confidence_survives_controlnet_aux_which_drops_below_one():
    poses = interchange.read([frame(aux_person(hands_at_wrists(person_points()), 0.87))])
    person = interchange.write(poses)[0]["people"][0]
    assert set(person["pose_keypoints_2d"][2::3]) == {1.0}


def test_coordinates_from_0_to_1_become_pixels():
    points = hands_at_wrists(person_points())
    small = aux_person(points / [WIDTH, HEIGHT])
    np.testing.assert_allclose(interchange.read([frame(small)]).points[0, 0, BODY], points[BODY])


def test_hands_go_to_the_nearest_wrist():
    points = hands_at_wrists(person_points())
    person = aux_person(points)
    person["hand_left_keypoints_2d"], person["hand_right_keypoints_2d"] = (
        person["hand_right_keypoints_2d"],
        person["hand_left_keypoints_2d"],
    )
    poses = interchange.read([frame(person)])
    np.testing.assert_array_equal(poses.points[0, 0, LEFT_HAND], points[LEFT_HAND])
    one = interchange.read([frame(person | {"hand_left_keypoints_2d": None})])
    np.testing.assert_array_equal(one.points[0, 0, LEFT_HAND], points[LEFT_HAND])
    assert (one.scores[0, 0, RIGHT_HAND] == 0).all()


def random_poses(frames: int = 3, people: int = 2) -> Poses:
    random = np.random.default_rng(1)
    points, scores = random.uniform(0, 480, (frames, people, 134, 2)), random.uniform(0.01, 1, (frames, people, 134))
    return Poses(points, scores.astype(np.float32), WIDTH, HEIGHT, tracked=True)


def test_our_own_round_trip_keeps_unsure_points_and_who_is_who(tmp_path):
    poses = random_poses()
    poses.scores[1, 0] = 0  # the first person leaves for a frame
    again = interchange.read(json.dumps(interchange.write(poses)))
    np.testing.assert_array_equal(again.points[again.scores > 0], poses.points[poses.scores > 0])
    np.testing.assert_array_equal(again.scores, poses.scores)
    assert again.tracked and (again.width, again.height) == (WIDTH, HEIGHT)


def test_written_lists_are_always_whole():
    poses = random_poses()
    poses.scores[:] = 0
    poses.scores[:, :, 0] = 1
    person = json.loads(json.dumps(interchange.write(poses)))[0]["people"][0]
    sizes = {key: len(person[key]) for key in interchange.PARTS}
    assert sizes == {
        "pose_keypoints_2d": 54,
        "foot_keypoints_2d": 18,
        "face_keypoints_2d": 210,
        "hand_left_keypoints_2d": 63,
        "hand_right_keypoints_2d": 63,
    }
    assert sum(person["pose_keypoints_2d"][3:]) == 0


@pytest.mark.parametrize("change", ["move", "remove"])
def test_an_edited_public_list_wins_over_our_raw_points(change):
    value = interchange.write(random_poses(1, 1))
    person = value[0]["people"][0]
    scores = np.array(person[interchange.RAW_KEY]).reshape(134, 3)[:18, 2]
    shown = int(np.where(scores > 0, scores, np.inf).argmin())  # the least sure of the shown ones
    person["pose_keypoints_2d"][3 * shown : 3 * shown + 3] = [7.0, 8.0, 1.0] if change == "move" else [0.0, 0.0, 0.0]
    poses = interchange.read(value)
    if change == "move":
        np.testing.assert_array_equal(poses.points[0, 0, shown], [7, 8])
    else:
        assert poses.scores[0, 0, shown] == 0


def test_frames_of_another_size_are_scaled_to_the_first():
    points = hands_at_wrists(person_points())
    half = frame(aux_person(points / 2)) | {"canvas_width": WIDTH // 2, "canvas_height": HEIGHT // 2}
    poses = interchange.read(json.dumps([frame(aux_person(points)), half]))
    np.testing.assert_allclose(poses.points[1, 0, BODY], points[BODY])


@pytest.mark.parametrize("value", ["{", "3", [], [1], [{"people": []}]])
def test_what_is_no_pose_is_refused_in_words(value):
    with pytest.raises(ValueError, match="pose"):
        interchange.read(value)


PEOPLE = [
    "ab",
    {"0": {}},
    [[1, 2, 3]],
    [None],
    [{"pose_keypoints_2d": "1 2 3"}],
    [{"pose_keypoints_2d": [[1, 2], [1]]}],
]


@pytest.mark.parametrize("people", PEOPLE)
def test_broken_people_are_refused_in_words(people):
    with pytest.raises(ValueError, match="This pose cannot be read: .* Save it again"):
        interchange.read([{"people": people, "canvas_width": WIDTH, "canvas_height": HEIGHT}])


def test_two_people_with_one_id_are_both_kept():
    people = [aux_person(hands_at_wrists(person_points(seed))) | {"track_id": 0} for seed in (1, 2)]
    poses = interchange.read([frame(*people)])
    assert poses.present.tolist() == [[True, True]] and not poses.tracked


def test_coco_order_and_neck():
    points = np.stack([np.arange(133.0), np.arange(133.0)], -1)
    scores = np.full(133, 0.9, np.float32)
    scores[5] = 0.5
    ours, sure = from_coco(points, scores)
    assert ours[[0, 2, 4, 5, 7, 8, 10, 11, 13, 14, 15, 16, 17], 0].tolist() == [
        0,
        6,
        10,
        5,
        9,
        12,
        16,
        11,
        15,
        2,
        1,
        4,
        3,
    ]
    assert ours[NECK, 0] == 5.5 and sure[NECK] == np.float32(0.5)
    assert ours[[18, 23, 24, 91, 92, 112, 113, 133], 0].tolist() == [17, 22, 23, 90, 91, 111, 112, 132]
    scores[6] = 0.2
    assert from_coco(points, scores)[1][NECK] == 0
