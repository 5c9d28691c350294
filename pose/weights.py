"""From a weights file to a ready net: .onnx, mmpose's and mmdet's .pth, or .safetensors, all into one folded layout."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..formats import model_file, onnx_file, pickle_file
from . import rtmpose, yolox

Net = TypeVar("Net", rtmpose.PoseNet, yolox.YOLOX)


def load_pose_net(path: Path) -> rtmpose.PoseNet:
    """DWPose or RTMW of any published size, float32 on the CPU.

    Raises ValueError in plain words unless every tensor is there in the right shape.
    """

    def build(state: dict[str, torch.Tensor]) -> rtmpose.PoseNet:
        x, y = (state[f"head.cls_{axis}.weight"].shape[0] for axis in "xy")
        return rtmpose.from_weights(state["backbone.stem.0.weight"].shape, x, y, "head.conv_dec.weight" in state)

    def build_onnx(weights: onnx_file.Weights) -> tuple[rtmpose.PoseNet, list[list[str]]]:
        two_scales = len(weights.matrices) == 6
        x, y = (matrix.shape[1] for matrix in weights.matrices[-2:])
        net = rtmpose.from_weights(weights.convolutions[0][0].shape, x, y, two_scales)
        return net, [_calls(net, nn.Conv2d, torch.zeros(1, 3, net.height, net.width, device="meta"))]

    return _load(path, "a DWPose or RTMW pose net", rtmpose.PoseNet, build, build_onnx)


def load_detector(path: Path) -> yolox.YOLOX:
    """YOLOX of any published size, float32 on the CPU.

    Raises ValueError in plain words unless every tensor is there in the right shape.
    """

    def build(state: dict[str, torch.Tensor]) -> yolox.YOLOX:
        classes = state["bbox_head.multi_level_conv_cls.0.weight"].shape[0]
        return yolox.from_weights(state["backbone.stem.conv.weight"].shape, classes)

    def build_onnx(weights: onnx_file.Weights) -> tuple[yolox.YOLOX, list[list[str]]]:
        shapes = [weight.shape for weight, _ in weights.convolutions]
        classes = shapes[-3 if shapes[-3][-1] == 1 else -5][0]  # mmdet's export, or the authors' (`published_order`)
        net = yolox.from_weights(shapes[0], classes)
        calls = _calls(net, nn.Conv2d, torch.zeros(1, 3, yolox.SIZE, yolox.SIZE, device="meta"))
        return net, [yolox.published_order(calls), calls]

    return _load(path, "a YOLOX detector", yolox.YOLOX, build, build_onnx)


def _load(
    path: Path,
    what: str,
    kind: type[Net],
    build: Callable[[dict[str, torch.Tensor]], Net],
    build_onnx: Callable[[onnx_file.Weights], tuple[Net, list[list[str]]]],
) -> Net:
    if reason := model_file.damage(path):
        raise ValueError(
            f"{path.name} cannot be used as {what}: it {reason}. Choose another file or download it again."
        )
    pickled = pickle_file.weights(path) if path.suffix.lower() in model_file.PICKLED else None
    try:
        with torch.device("meta"):
            if path.suffix.lower() == ".onnx":
                weights = onnx_file.read(path)
                net, orders = build_onnx(weights)
                state = _from_onnx(net, orders, weights)
            else:
                state = _fold(load_file(path) if pickled is None else pickled, kind.bn_eps)
                net = build(state)
        _check(net, state)
    except (KeyError, IndexError, StopIteration) as err:
        raise ValueError(
            f"{path.name} is not {what}: a layer is missing. Choose another file or download it again."
        ) from err
    except ValueError as err:
        raise ValueError(
            f"{path.name} cannot be used as {what}: {err}. Choose another file or download it again."
        ) from err
    # copied, since what is mapped would go with its file
    net.load_state_dict(
        {name: state[name].to(torch.float32, copy=True).contiguous() for name in net.state_dict()}, assign=True
    )
    return net.eval().requires_grad_(False)


def _fold(state: dict[str, torch.Tensor], eps: float) -> dict[str, torch.Tensor]:
    """Every `x.conv` followed by `x.bn` as one convolution `x`; what is folded already stays."""
    folded = {name: tensor for name, tensor in state.items() if ".bn." not in name and ".conv." not in name}
    for name in [name for name in state if name.endswith(".conv.weight") or name.endswith(".conv.bias")]:
        prefix, _, part = name.rpartition(".conv.")
        if f"{prefix}.bn.running_var" not in state:
            folded[name] = state[name]
        elif part == "weight":
            norm = {
                key: state[f"{prefix}.bn.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")
            }
            scale = norm["weight"] / (norm["running_var"] + eps).sqrt()
            folded[f"{prefix}.weight"] = state[name].double() * scale[:, None, None, None]
            bias = state[f"{prefix}.conv.bias"].double() if f"{prefix}.conv.bias" in state else 0
            folded[f"{prefix}.bias"] = norm["bias"] + (bias - norm["running_mean"]) * scale
    return folded


def _from_onnx(net: nn.Module, orders: list[list[str]], weights: onnx_file.Weights) -> dict[str, torch.Tensor]:
    """Names for what the graph uses, by the order in which the net uses its own."""
    modules = dict(net.named_modules())
    shapes = [tuple(weight.shape) for weight, _ in weights.convolutions]
    order = next((order for order in orders if [tuple(modules[n].weight.shape) for n in order] == shapes), None)
    if order is None:
        raise ValueError(f"its {len(shapes)} convolutions are not the {len(orders[0])} of this net")
    state = {}
    for name, (weight, bias) in zip(order, weights.convolutions, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, np.zeros(len(weight), "f4") if bias is None else bias
    if isinstance(net, rtmpose.PoseNet):
        mlps = ["head.mlp.1"] + (["head.mlp2.1"] if net.neck else [])
        linears = [*mlps, "head.gau.uv", "head.gau.o", "head.cls_x", "head.cls_y"]
        state |= {f"{name}.weight": matrix.T for name, matrix in zip(linears, weights.matrices, strict=True)}
        norms = [f"{name[:-2]}.0.g" for name in mlps] + ["head.gau.ln.g"]
        factors = [factor for factor in weights.factors if factor.shape == (1,)]
        state |= dict(zip(norms, factors, strict=True))
        keys = (2, rtmpose.KEYS)
        state["head.gau.gamma"] = next(f for f in weights.factors if f.shape[-2:] == keys).reshape(keys)
        state["head.gau.beta"] = next(s for s in weights.summands if s.shape[-2:] == keys).reshape(keys)
        state["head.gau.res_scale.scale"] = next(f for f in weights.factors if f.shape == (rtmpose.CHANNELS,))
    with torch.device("cpu"):
        return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in state.items()}


def _calls(net: nn.Module, kind: type[nn.Module], example: torch.Tensor) -> list[str]:
    """Names of the net's modules of a kind in the order in which it calls them."""
    order, hooks = [], []
    for name, module in net.named_modules():
        if isinstance(module, kind):
            hooks.append(module.register_forward_hook(lambda *_, name=name: order.append(name)))
    net(example)
    for hook in hooks:
        hook.remove()
    return order


def _check(net: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, wanted in net.state_dict().items():
        if name not in state:
            raise ValueError(f"the layer {name} is missing")
        if state[name].shape != wanted.shape:
            raise ValueError(f"the layer {name} has the shape {list(state[name].shape)}, not {list(wanted.shape)}")
