"""Where ComfyUI puts the pose nets: on a card that is nearly full, with its flags, and how often."""

import os
import subprocess
import sys

import pytest
import torch
from steadydancer.pose.rtmpose import PoseNet
from support import TESTS
from support.pose_nets import randomised, write_detector, write_pose_net

SUPPORT = TESTS / "support"


@pytest.mark.parametrize(
    ("flags", "waiting"),
    [("", {0: False, 6.9: True, 7.9: True}), ("--novram", {0: True}), ("--gpu-only", {6.9: False})],
    ids=["normal", "--novram", "--gpu-only"],
)
def test_nets_run_wherever_their_weights_wait(comfyui_path, flags, waiting):
    """ComfyUI's own placement on a pretended card of 8 GB, with GB taken by others: no operation gets tensors of two devices."""
    done = subprocess.run(
        [sys.executable, SUPPORT / "fake_cuda.py", "pose", "8", ",".join(map(str, waiting)), *flags.split()],
        env={**os.environ, "PYTHONPATH": str(TESTS), "COMFYUI_PATH": str(comfyui_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 3 * len(waiting)
    for used, _net, *devices in lines:
        assert ("cpu" in devices) == waiting[float(used)], done.stdout


def test_an_estimate_loads_both_nets_once(comfyui, tmp_path, monkeypatch):
    import comfy.model_management as mm
    from steadydancer.pose.estimate import Settings, estimate
    from steadydancer.services import pose_nets

    asked, load = [], mm.load_models_gpu
    monkeypatch.setattr(
        mm, "load_models_gpu", lambda models, *rest, **named: asked.append(models) or load(models, *rest, **named)
    )
    detector, pose = write_detector(tmp_path / "yolox.onnx"), write_pose_net(tmp_path / "dw.onnx")
    finder, reader = pose_nets.ready(detector, pose, 1, onnxruntime=False)
    estimate(torch.rand(3, 64, 48, 3), finder, reader, Settings(no_person="whole frame"))
    assert [len(models) for models in asked] == [2]
    asked.clear()
    assert pose_nets.ready(None, pose, 1, onnxruntime=False)[0] is None
    assert [len(models) for models in asked] == [1]


def test_batches_count_what_dynamic_memory_gives_back(comfyui, monkeypatch):
    import comfy.memory_management
    import comfy.model_management as mm
    import comfy_aimdo.model_vbar
    from steadydancer.services import pose_nets

    patched = pose_nets.Patched(PoseNet(0.167, 0.375, 192, 256, False))
    patched.patcher.load_device = torch.device("cuda", 0)
    monkeypatch.setattr(mm, "get_free_memory", lambda device: 0.5e9)
    assert pose_nets._batch(patched.patcher, 80e6, 64, 4) == 3
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(comfy_aimdo.model_vbar, "vbars_analyze", lambda device: 7e9)
    assert pose_nets._batch(patched.patcher, 80e6, 64, 4) == 46


def test_the_nets_compute_the_same_under_comfyui(comfyui):
    from steadydancer.services.pose_nets import Patched

    net, x = randomised(PoseNet(0.167, 0.375, 192, 256, True)), torch.randn(2, 3, 256, 192)
    plain = net(x)
    for found, wanted in zip(Patched(net)(x), plain, strict=True):
        assert torch.equal(found, wanted)
