"""The published weights on a real picture. Only where you have them:

    PUBLISHED_POSE_WEIGHTS=FOLDER python dev.py test -- tests/parts/test_pose_published.py

FOLDER holds yolox_l.onnx and dw-ll_ucoco_384.onnx as their authors publish them (0.35 GB);
`python cli.py download yolox-l dw-ll-ucoco-384 --models-dir MODELS` puts them into MODELS/detection.
"""

import hashlib
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from steadydancer.catalog.catalog import catalogue
from steadydancer.pose.estimate import Net, Settings, estimate
from steadydancer.pose.keypoints import LEFT_HAND, LEFT_WRIST, RIGHT_HAND, RIGHT_WRIST
from steadydancer.pose.weights import load_detector, load_pose_net
from support import fixtures

FOLDER = os.environ.get("PUBLISHED_POSE_WEIGHTS", "")
CPU = torch.device("cpu")
# Where a human eye sees them in the first frame (720×1280), and how far off the net may be: right is the dancer's right.
SEEN = {
    "nose": (0, (352, 440), 40),
    "right eye": (14, (309, 360), 40),
    "left eye": (15, (405, 355), 40),
    "right shoulder": (2, (133, 700), 110),
    "left shoulder": (5, (608, 700), 110),
    "right wrist": (RIGHT_WRIST, (280, 608), 100),
    "left wrist": (LEFT_WRIST, (421, 608), 100),
}

pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="set PUBLISHED_POSE_WEIGHTS to the folder of the two published .onnx files"),
    pytest.mark.skipif(fixtures() is None, reason="the example pair of the authors is not here"),
]


def published(file_id: str) -> Path:
    file = catalogue().files[file_id]
    path = Path(FOLDER) / file.name
    assert path.is_file(), f"{file.name} is not in PUBLISHED_POSE_WEIGHTS. Put it there, or unset the variable."
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == file.sha256, f"{file.name} is not the published file. Download it again."
    return path


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    with av.open(str(fixtures() / "dance01" / "driving_video.mp4")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return torch.from_numpy(frame)[None] / 255


def in_torch(load, path: Path) -> Net:
    net = load(path)
    return Net(torch.no_grad()(net), CPU, 1, getattr(net, "width", 0), getattr(net, "height", 0))


def in_onnxruntime(path: Path, width: int = 0, height: int = 0) -> Net:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x):
        parts = tuple(torch.from_numpy(part) for part in session.run(None, {name: x.numpy()}))
        return parts if len(parts) > 1 else parts[0]

    return Net(run, CPU, 1, width, height)


def test_the_dancer_is_found_where_one_sees_her(picture):
    nets = in_torch(load_detector, published("yolox-l")), in_torch(load_pose_net, published("dw-ll-ucoco-384"))
    poses = estimate(picture, *nets, Settings(max_people=0))
    assert poses.points.shape[1] == 1
    points, scores = poses.points[0, 0], poses.scores[0, 0]
    for name, (joint, place, _) in SEEN.items():
        print(f"{name:15} {points[joint].round()} seen at {place}, score {scores[joint]:.2f}")
    for name, (joint, place, off) in SEEN.items():
        assert scores[joint] > 0.3 and np.linalg.norm(points[joint] - place) < off, name
    for hand, wrist in ((RIGHT_HAND, RIGHT_WRIST), (LEFT_HAND, LEFT_WRIST)):  # both held up, fingers above the wrists
        assert scores[hand].mean() > 0.3 and points[hand, 1].mean() < points[wrist, 1]


def test_torch_and_onnxruntime_find_the_same(picture):
    files = published("yolox-l"), published("dw-ll-ucoco-384")
    ours = estimate(picture, in_torch(load_detector, files[0]), in_torch(load_pose_net, files[1]), Settings())
    theirs = estimate(picture, in_onnxruntime(files[0]), in_onnxruntime(files[1], 288, 384), Settings())
    off = np.linalg.norm(ours.points - theirs.points, axis=-1)
    assert np.median(off) < 0.5 and np.abs(ours.scores - theirs.scores).max() < 0.01
