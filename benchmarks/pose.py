#!/usr/bin/env python3
"""Speed of the pose pipeline: the steps around the nets, the nets, and both together. Prints a table.

    python dev.py run -- python benchmarks/pose.py [--frames 16] [--device cpu|cuda] [--nets] [--peer PATH]

Without --nets only the steps around them are timed, with our own rasteriser. Weights are random: speed does not depend on them.
--peer is the `src` folder of a copy of comfyui_controlnet_aux, which needs OpenCV and matplotlib beside the environment.
"""

import argparse
import contextlib
import importlib.util
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)
cli.load_package()

from steadydancer.pose import crops, detect, interchange  # noqa: E402
from steadydancer.pose.align import align  # noqa: E402
from steadydancer.pose.draw import draw  # noqa: E402
from steadydancer.pose.estimate import Net, Settings, estimate  # noqa: E402
from steadydancer.pose.keypoints import FACE, FROM_COCO, NECK, Poses  # noqa: E402
from steadydancer.pose.rtmpose import PoseNet  # noqa: E402
from steadydancer.pose.styles import STYLES  # noqa: E402
from steadydancer.pose.yolox import YOLOX  # noqa: E402

WIDTH, HEIGHT = 720, 1280


BOX = np.array([[120.0, 140, 600, 1140]])  # around the dancer


class ConstantDetector:
    """One sure person, at no cost."""

    def __init__(self, device):
        self.rows = torch.zeros(1, 8400, 85, device=device)
        x1, y1, x2, y2 = BOX[0] / 2 / 32  # cells of 32 pixels of the picture at half its size
        x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, np.log(x2 - x1), np.log(y2 - y1)
        cell = 8000 + int(y) * 20 + int(x)
        self.rows[0, cell, :6] = torch.tensor([x - int(x), y - int(y), w, h, 1.0, 1.0])

    def __call__(self, pictures):
        return self.rows.expand(len(pictures), -1, -1)


class ConstantPose:
    """The dancer's points, at no cost."""

    def __init__(self, device):
        points, known = np.zeros((133, 2)), np.arange(134) != NECK
        points[FROM_COCO[known]] = dancer(1).points[0, 0, known]
        region = crops.regions(BOX, 288, 384)[0]
        share = (points - region[:2]) / region[2:] + 0.5
        self.answer = tuple(torch.zeros(1, 133, bins, device=device) for bins in (576, 768))
        for part, places in zip(self.answer, share.T):
            part[0, range(133), (places * part.shape[-1]).astype(int).clip(0, part.shape[-1] - 1)] = 0.9

    def __call__(self, crops):
        return tuple(part.expand(len(crops), -1, -1) for part in self.answer)


def timed(work, repeats: int, device) -> tuple[float, float]:
    """Wall and CPU seconds a call, the best of `repeats` after one to warm up. CPU time says more on a busy machine."""
    best = cpu = float("inf")
    for i in range(repeats + 1):
        start, burnt = time.perf_counter(), time.process_time()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i:
            best, cpu = min(best, time.perf_counter() - start), min(cpu, time.process_time() - burnt)
    return best, cpu


def dancer(frames: int) -> Poses:
    """A body with hands and face at a plausible size, moving a little."""
    random = np.random.default_rng(0)
    x = np.array([0, 0, -90, -150, -190, 90, 150, 190, -50, -60, -60, 50, 60, 60, -15, 15, -30, 30.0])
    y = np.array([-90, 0, 0, 130, 250, 0, 130, 250, 300, 520, 740, 300, 520, 740, -105, -105, -95, -95.0])
    points = np.zeros((frames, 1, 134, 2))
    points[:, 0, :18] = np.stack([360 + x, 330 + y], -1) + random.uniform(-9, 9, (frames, 18, 2))
    for part, wrist in ((slice(92, 113), 7), (slice(113, 134), 4)):
        points[:, 0, part] = points[:, 0, [wrist]] + random.uniform(-45, 45, (frames, 21, 2))
    points[:, 0, FACE] = points[:, 0, [0]] + random.uniform(-35, 35, (frames, 68, 2))
    return Poses(points, np.ones((frames, 1, 134), np.float32), WIDTH, HEIGHT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nets", action="store_true", help="also time the nets, and onnxruntime where it is installed")
    parser.add_argument("--peer", help="folder with the package custom_controlnet_aux")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0 leaves its own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    frames = torch.rand(args.frames, HEIGHT, WIDTH, 3)
    rows = []

    def add(name: str, work, items: int) -> np.ndarray:
        wall, cpu = (seconds / items * 1000 for seconds in timed(work, args.repeats, device))
        rows.append((name, wall, cpu))
        return np.array([wall, cpu])

    poses, reference, style = dancer(args.frames), dancer(1), STYLES["SteadyDancer"]
    region = crops.regions(BOX, 288, 384)[0]
    loaded = frames[0].to(device)
    with torch.no_grad():
        add("letterbox", lambda: detect.letterbox(frames[:4].to(device)), 4)
        add("crop", lambda: crops.normalised(crops.crop(loaded, region, 288, 384)), 1)
        fixed = ConstantDetector(device), ConstantPose(device)
        nets = Net(fixed[0], device, 4), Net(fixed[1], device, 16, 288, 384)
        whole = add("pipeline without nets", lambda: estimate(frames, *nets, Settings(detect_every=1)), args.frames)
        add(
            "pipeline without nets, detecting every 5",
            lambda: estimate(frames, *nets, Settings(detect_every=5)),
            args.frames,
        )
        whole += add("align", lambda: align(poses, reference, WIDTH, HEIGHT), args.frames)
        whole += add("draw (own rasteriser, 2x)", lambda: draw(poses, style), args.frames)
        rows.append(("all of it, every frame detected", *whole))
        if args.peer:
            time_peer(add, args.peer, frames, nets)
        if args.nets:
            time_nets(add, frames, device)
    print(f"{WIDTH}x{HEIGHT}, {args.frames} frames, {device}, {torch.get_num_threads()} threads")
    print(f"{'':56} {'wall':>9} {'CPU':>9}  ms a frame")
    for name, wall, cpu in rows:
        print(f"{name:56} {wall:9.2f} {cpu:9.2f}  {1000 / wall:9.1f} frames/s")


class InferenceSession:
    """What controlnet_aux takes for onnxruntime's session, by its name: `answer(input)`, at no cost."""

    def __init__(self, answer):
        self.answer = answer

    def get_inputs(self):
        return [type("Input", (), {"name": "input"})]

    def run(self, names, inputs):
        return self.answer(inputs["input"])


def time_peer(add, folder: str, frames: torch.Tensor, nets: tuple[Net, Net]) -> None:
    """What controlnet_aux's node does, IMAGE to IMAGE and POSE_KEYPOINT, and what our two nodes do, in its style."""
    sys.path.insert(0, folder)
    from custom_controlnet_aux.dwpose import DwposeDetector
    from custom_controlnet_aux.dwpose.wholebody import Wholebody

    cpu = torch.device("cpu")
    found, points = ConstantDetector(cpu).rows.numpy(), [part.numpy() for part in ConstantPose(cpu).answer]
    whole = Wholebody.__new__(Wholebody)
    whole.det_filename, whole.pose_filename, whole.pose_input_size = "yolox_l.onnx", "dw-ll_ucoco_384.onnx", (288, 384)
    whole.det = InferenceSession(lambda x: [found.copy()])
    whole.pose = InferenceSession(lambda x: [part.repeat(len(x), 0) for part in points])
    reader = DwposeDetector(whole)
    shown = {"include_body": True, "include_hand": True, "include_face": True, "image_and_json": True}

    def theirs() -> torch.Tensor:
        out = torch.zeros(len(frames), HEIGHT, WIDTH, 3)
        for i, frame in enumerate(frames):
            picture = np.asarray(frame * 255.0, dtype=np.uint8)
            with contextlib.redirect_stdout(io.StringIO()):
                drawn, _ = reader(picture, output_type="np", detect_resolution=WIDTH, **shown)
            out[i] = torch.from_numpy(drawn.astype(np.float32) / 255.0)
        return out

    def ours() -> torch.Tensor:
        keypoints = interchange.write(estimate(frames, *nets, Settings(detect_every=1)))
        return torch.from_numpy(draw(interchange.read(keypoints), STYLES["controlnet_aux"]))

    same = (ours() - theirs()).abs().amax(-1) < 2 / 255
    print(f"pixels that both draw alike: {same.float().mean():.4%}")
    add("side by side: controlnet_aux, with OpenCV", theirs, len(frames))
    add("side by side: ours, without OpenCV", ours, len(frames))


def time_nets(add, frames: torch.Tensor, device: torch.device) -> None:
    half = device.type == "cuda"
    pose, found = PoseNet(1.0, 1.0, 288, 384, False).eval().to(device), {}
    if half:
        pose.backbone.half()
    for name, size in (("YOLOX-s", (0.33, 0.5)), ("YOLOX-m", (0.67, 0.75)), ("YOLOX-l", (1.0, 1.0))):
        found[name] = YOLOX(*size, 80).eval().to(device)
        if half:
            found[name].half()
    pictures, inputs = torch.rand(4, 3, 640, 640, device=device) * 255, torch.randn(4, 3, 384, 288, device=device)
    for name, net in found.items():
        add(f"{name}, torch, batch 4", lambda net=net: net(pictures), 4)
    for batch in (1, 4):
        add(f"DWPose-l, torch, batch {batch}", lambda batch=batch: pose(inputs[:batch]), batch)
    if not half:
        time_onnxruntime(add, {"YOLOX-l": (found["YOLOX-l"], pictures[:1]), "DWPose-l": (pose, inputs[:1])})
    constant = ConstantDetector(device)

    def detector(x):
        found["YOLOX-l"](x)  # its random weights find nobody: its time counts, the constant's box is used
        return constant(x)

    nets = Net(detector, device, 16 if half else 1), Net(pose, device, 64 if half else 4, 288, 384)

    def run() -> None:
        draw(estimate(frames, *nets, Settings(detect_every=5)), STYLES["SteadyDancer"])

    add("end to end: YOLOX-l every 5, DWPose-l, drawing", run, len(frames))


def time_onnxruntime(add, nets: dict) -> None:
    try:
        import onnx  # noqa: F401 (torch's exporter needs it)
        import onnxruntime
    except ImportError:
        print("onnx or onnxruntime is not installed: left out")
        return
    import tempfile

    for name, (net, x) in nets.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            torch.onnx.export(net, (x,), path, dynamo=False, input_names=["input"])
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            add(
                f"{name}, onnxruntime, batch 1", lambda session=session, x=x: session.run(None, {"input": x.numpy()}), 1
            )


if __name__ == "__main__":
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    main()
