"""Detectors and pose nets of the published structure with random weights, and files of them."""

from pathlib import Path

import torch
from steadydancer.pose.rtmpose import PoseNet
from steadydancer.pose.yolox import YOLOX


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """The net with weights that keep signals at a readable size."""
    random = torch.Generator().manual_seed(1)
    for name, value in net.named_parameters():
        noise = torch.randn(value.shape, generator=random)
        if value.ndim > 1:
            value.data = noise * (1.6 / value[0].numel()) ** 0.5
        else:
            value.data = 0.1 * noise + name.endswith((".g", "scale"))
    return net.eval().requires_grad_(False)


def export(net: torch.nn.Module, shape: tuple, path: Path) -> Path:
    torch.onnx.export(net, (torch.zeros(shape),), path, dynamo=False, input_names=["input"])
    return path


def write_detector(path: Path) -> Path:
    """A tiny YOLOX that is sure of people everywhere, 236 pixels large in its 640."""
    net = randomised(YOLOX(0.33, 0.375, 80))
    head = net.bbox_head
    for i, sure in enumerate((-10.0, -10.0, 6.0)):
        for last, bias in ((head.multi_level_conv_obj, [sure]), (head.multi_level_conv_reg, [0.5, 0.5, 2.0, 2.0])):
            last[i].weight.zero_()
            last[i].bias.copy_(torch.tensor(bias))
        head.multi_level_conv_cls[i].weight.zero_()
        head.multi_level_conv_cls[i].bias.fill_(6.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    return export(net, (1, 3, 640, 640), path)


def write_pose_net(path: Path) -> Path:
    """A tiny DWPose that is sure of points which depend on the picture and mean nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return export(randomised(PoseNet(0.167, 0.375, 288, 384, two_scales=False)), (1, 3, 384, 288), path)
