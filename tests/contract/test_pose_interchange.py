"""Core's own pose drawer takes what we write, also of the values on which it stops as they come from elsewhere."""

import numpy as np
import pytest
from steadydancer.pose import interchange

POINTS = np.random.default_rng(0).uniform(20, 100, (25, 2))


def flat(count: int, confidence: float = 1.0) -> list[float]:
    return np.concatenate([POINTS[:count], np.full((count, 1), confidence)], 1).ravel().tolist()


VALUES = {
    "one hand absent": {
        "pose_keypoints_2d": flat(18),
        "hand_left_keypoints_2d": None,
        "hand_right_keypoints_2d": flat(21),
    },
    "empty lists": {"pose_keypoints_2d": flat(18), "face_keypoints_2d": [], "hand_left_keypoints_2d": []},
    "body 25": {"pose_keypoints_2d": flat(25)},
    "raw scores": {"pose_keypoints_2d": flat(18, 0.87)},
    "0 to 1": {"pose_keypoints_2d": (np.array(flat(18)).reshape(-1, 3) / [128, 128, 1]).ravel().tolist()},
}


@pytest.mark.parametrize("name", VALUES)
def test_core_draws_what_we_write(comfyui, name):
    from comfy_extras.nodes_sdpose import SDPoseDrawKeypoints

    value = [{"people": [VALUES[name]], "canvas_width": 128, "canvas_height": 128}]
    written = interchange.write(interchange.read(value))
    (image,) = SDPoseDrawKeypoints.execute(written, True, True, True, True, 4, 3, 0.3, True).args
    assert image.shape == (1, 128, 128, 3) and float((image.amax(-1) > 0).float().mean()) > 0.03


def test_core_draws_nobody_where_there_are_animals(comfyui):
    from comfy_extras.nodes_sdpose import SDPoseDrawKeypoints

    written = interchange.write(interchange.read([{"animals": [[1]], "canvas_width": 64, "canvas_height": 64}]))
    (image,) = SDPoseDrawKeypoints.execute(written, True, True, True, True, 4, 3, 0.3, True).args
    assert not image.any()
