"""Pose and detector nets of full size with random weights: what they calculate after any way of reading their weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from steadydancer.pose import layers, yolox
from steadydancer.pose.rtmpose import PoseNet
from steadydancer.pose.weights import load_detector, load_pose_net
from support.pose_nets import export, randomised

CROP, PICTURE = (1, 3, 384, 288), (1, 3, 640, 640)


def dwpose() -> PoseNet:
    return randomised(PoseNet(1.0, 1.0, 288, 384, two_scales=False))


def rtmw() -> PoseNet:
    return randomised(PoseNet(1.0, 1.0, 288, 384, two_scales=True))


def detector(deepen: float = 1.0, widen: float = 1.0) -> yolox.YOLOX:
    return randomised(yolox.YOLOX(deepen, widen, 80))


def small_detector() -> yolox.YOLOX:
    return detector(0.33, 0.5)


def run_onnx(path: Path, x: torch.Tensor) -> list[np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})


def outputs(net: torch.nn.Module, x: torch.Tensor) -> list[np.ndarray]:
    y = net(x)
    return [part.numpy() for part in (y if isinstance(y, tuple) else (y,))]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Equal to 1e-3, and the same largest value of each row but where two of theirs are nearer than ours come to them."""
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(b).max() > 0.1 and a.shape == b.shape
        off = np.abs(a - b).max()
        assert off <= 1e-3
        chosen = np.take_along_axis(b, a.argmax(-1)[..., None], -1)[..., 0]
        assert (chosen >= b.max(-1) - 2 * off).all()
        assert (a.argmax(-1) == b.argmax(-1)).mean() > 0.999


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", [dwpose, rtmw])
def test_pose_net_from_onnx_equals_onnxruntime(make, tmp_path):
    path, x = export(make(), CROP, tmp_path / "net.onnx"), torch.randn(CROP)
    assert_same(outputs(load_pose_net(path), x), run_onnx(path, x))


def test_dwpose_has_the_published_size(tmp_path):
    assert sum(value.numel() for value in dwpose().parameters()) == 33_591_399
    assert export(dwpose(), CROP, tmp_path / "net.onnx").stat().st_size == pytest.approx(134_399_116, rel=1e-3)


@pytest.fixture
def authors_export(monkeypatch):
    """Makes the net call its layers in the order of the YOLOX authors' export."""

    def csp(self, x):
        main = self.main_conv(x)
        short = self.short_conv(x)
        return self.final_conv(self.attention(torch.cat([self.blocks(main), short], 1)))

    def forward(self, pictures):
        corners = (pictures[..., a::2, b::2] for b in (0, 1) for a in (0, 1))
        x, features = self.backbone["stem"]["conv"](torch.cat(list(corners), 1)), []
        for stage in (1, 2, 3, 4):
            x = self.backbone[f"stage{stage}"](x)
            features.append(x)
        head, rows = self.bbox_head, []
        for i, x in enumerate(self.neck(*features[1:])):
            x = self.neck.out_convs[i](x)
            kind = head.multi_level_conv_cls[i](head.multi_level_cls_convs[i](x)).sigmoid()
            place = head.multi_level_reg_convs[i](x)
            box, sure = head.multi_level_conv_reg[i](place), head.multi_level_conv_obj[i](place).sigmoid()
            rows.append(torch.cat([box, sure, kind], 1).flatten(2))
        return torch.cat(rows, 2).transpose(1, 2)

    with monkeypatch.context() as patch:
        patch.setattr(layers.CSPLayer, "forward", csp)
        patch.setattr(yolox.YOLOX, "forward", forward)
        yield patch


@pytest.mark.parametrize(
    ("deepen", "widen", "exporter"),
    [(1.0, 1.0, "authors"), (0.67, 0.75, "mmdet"), (0.33, 0.5, "authors"), (0.33, 0.5, "mmdet")],
    ids=["l", "m", "s", "s by mmdet"],
)
def test_detector_from_onnx_equals_onnxruntime(deepen, widen, exporter, tmp_path, authors_export):
    if exporter == "mmdet":
        authors_export.undo()
    path, x = export(detector(deepen, widen), PICTURE, tmp_path / "net.onnx"), torch.rand(PICTURE)
    authors_export.undo()
    assert_same(outputs(load_detector(path), x), run_onnx(path, x))


def test_detector_has_the_published_size():
    assert sum(value.numel() for value in detector().parameters()) == 54_174_271


def unfolded(net: torch.nn.Module, eps: float) -> dict[str, torch.Tensor]:
    """The net as mmpose and mmdet save it: a convolution without bias and its normalisation, with prefixes."""
    random, state = torch.Generator().manual_seed(2), net.state_dict()
    plain = ("attention.fc", "multi_level_conv_", *(() if getattr(net, "neck", None) else ("head.final_layer",)))
    out = {}
    for name, module in net.named_modules():
        if not isinstance(module, torch.nn.Conv2d) or any(part in name for part in plain):
            continue
        weight, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias")
        scale, variance, mean = (
            torch.rand(len(bias), generator=random) * size + 0.5 * size for size in (1.0, 0.01, 1.0)
        )
        factor = scale / (variance + eps).sqrt()
        out[f"{name}.conv.weight"] = weight / factor[:, None, None, None]
        out |= {f"{name}.bn.weight": scale, f"{name}.bn.bias": bias + mean * factor}
        out |= {f"{name}.bn.running_mean": mean, f"{name}.bn.running_var": variance}
        out[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
    return out | state | {"data_preprocessor.mean": torch.zeros(3)}


@pytest.mark.parametrize(
    ("make", "load", "shape", "eps"),
    [
        (dwpose, load_pose_net, CROP, 1e-5),
        (rtmw, load_pose_net, CROP, 1e-5),
        (small_detector, load_detector, PICTURE, 1e-3),
    ],
)
def test_published_pth_with_normalisation_folded(make, load, shape, eps, tmp_path):
    net, x = make(), torch.randn(shape)
    torch.save({"meta": {"epoch": 1}, "state_dict": unfolded(net, eps)}, tmp_path / "net.pth")
    assert_same(outputs(load(tmp_path / "net.pth"), x), outputs(net, x))


def test_safetensors_folded_or_not_and_half_precision(tmp_path):
    net, x = dwpose(), torch.randn(CROP)
    save_file(net.state_dict(), tmp_path / "folded.safetensors")
    save_file(unfolded(net, 1e-5), tmp_path / "plain.safetensors")
    save_file({name: value.half() for name, value in net.state_dict().items()}, tmp_path / "half.safetensors")
    expected = outputs(net, x)
    for name in ("folded", "plain"):
        assert_same(outputs(load_pose_net(tmp_path / f"{name}.safetensors"), x), expected)
    half = load_pose_net(tmp_path / "half.safetensors")
    assert next(half.parameters()).dtype == torch.float32
    assert np.abs(outputs(half, x)[0] - expected[0]).max() < 0.05


def small_state() -> dict[str, torch.Tensor]:
    return randomised(PoseNet(0.167, 0.375, 192, 256, two_scales=False)).state_dict()


def test_other_sizes_are_recognised(tmp_path):
    save_file(small_state(), tmp_path / "t.safetensors")
    net = load_pose_net(tmp_path / "t.safetensors")
    assert (net.width, net.height) == (192, 256)
    assert [part.shape[-1] for part in outputs(net, torch.zeros(1, 3, 256, 192))] == [384, 512]


@pytest.mark.parametrize("damage", ["missing", "shape", "detector", "text", "onnx", "cut onnx", "pickle"])
def test_partial_or_foreign_files_are_refused_in_words(damage, tmp_path):
    state, path = (
        small_state(),
        tmp_path / ("net.safetensors" if damage in ("missing", "shape", "detector") else "net.pth"),
    )
    if damage == "missing":
        del state["head.gau.beta"]
    elif damage == "shape":
        state["backbone.stage2.1.short_conv.weight"] = torch.zeros(3, 3)
    elif damage == "detector":
        state = small_detector().state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif damage == "pickle":
        torch.save({"state_dict": state, "hook": test_other_sizes_are_recognised}, path)
    elif damage == "cut onnx":
        path = export(randomised(PoseNet(0.167, 0.375, 192, 256, False)), (1, 3, 256, 192), tmp_path / "net.onnx")
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        path = path.with_suffix(".onnx" if damage == "onnx" else ".pth")
        path.write_text("no weights here")
    with pytest.raises(ValueError, match=rf"^{path.name} .*Choose another file"):
        load_pose_net(path)
