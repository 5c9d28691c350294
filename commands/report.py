"""Measures a result: does it follow the poses, keep the person, stay still where it should? Or compares reports.

`report RESULT.mp4 --picture P --poses J` (or `--dance D`) measures; `report A.json B.json` puts saved reports side by side.
Measuring needs ComfyUI's Python (torch, PyAV) and the pose networks, which `download dwpose` fetches.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..catalog.catalog import catalogue
from .machine import add_models_dir, models

if TYPE_CHECKING:  # they need numpy and torch
    from ..media.read_video import Clip
    from ..pose.estimate import Net
    from ..pose.keypoints import Poses
    from ..report.side_by_side import Trio

FPS = 16.0  # the model's, by which Driving Video takes a dance


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("report", help="did it dance? a result in numbers", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULT|REPORT.json", help="a video, or saved reports")
    parser.add_argument("--picture", type=Path, help="the picture of the person")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--poses", type=Path, metavar="JSON", help="the poses asked for, as Save Pose writes them")
    asked.add_argument("--dance", type=Path, metavar="VIDEO", help="the dance; its poses are read and aligned")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the numbers")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="save curves and worst frames as a picture")
    parser.add_argument(
        "--video", type=Path, metavar="MP4", help="save picture, pose and result side by side, with sound"
    )
    add_models_dir(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when all is good or saved reports were compared, 3 when something is to be looked at or broken."""
    if all(file.suffix.lower() == ".json" for file in args.files):
        return compare(args.files)
    if len(args.files) > 1:
        raise ValueError("Give one result, or several saved reports, which end in .json.")
    if not args.picture or not (args.poses or args.dance):
        raise ValueError("Give the picture with --picture, and what was asked for with --poses or --dance.")
    return measure(args)


def compare(files: list[Path]) -> int:
    """Prints one saved report, or several side by side."""
    from ..report.report import compared, read_report, text

    reports = [read_report(file.read_text("utf-8", errors="replace")) for file in files]
    one = len(reports) == 1
    print("\n".join(text(reports[0]) if one else compared([file.stem for file in files], reports)))
    return 0


def measure(args: argparse.Namespace) -> int:
    """Measures a result, prints the report and saves what was asked for. 0 when all is good, else 3."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from ..media.read_video import read_clip
    from ..pose import interchange
    from ..pose.align import align
    from ..pose.estimate import Settings, estimate
    from ..pose.track import track
    from ..report.report import GOOD, make_report, text
    from ..report.sheet import sheet
    from ..report.side_by_side import Trio, covering

    detector, pose_net = pose_nets(args)
    clip, progress = read_clip(str(args.files[0])), Progress()
    count, height, width = clip.frames.shape[:3]
    with Image.open(args.picture) as image:
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    picture = covering(np.asarray(rgb, np.float32) / 255, width, height)

    def poses(frames: np.ndarray, people: int) -> "Poses":
        settings = Settings(max_people=people, detect_every=5)
        return estimate(torch.from_numpy(frames), detector, pose_net, settings, progress=progress)

    of_picture = poses(picture[None], 1)
    if args.poses:
        asked = interchange.read(args.poses.read_text("utf-8-sig", errors="replace"))
    else:
        dance = read_clip(str(args.dance), count=count, fps=FPS, longest_side=1280)
        asked = align(track(poses(dance.frames, 1), 1), of_picture, width, height)
    found = poses(clip.frames, asked.points.shape[1] + 1)
    report = make_report(clip.frames, picture, asked, found, of_picture, clip.fps, progress)
    if args.json:
        args.json.write_text(report.to_json(), "utf-8")
    if args.sheet:
        Image.fromarray(sheet(report, clip.frames, picture, asked)).save(args.sheet)
    if args.video:
        write_video(args.video, Trio(clip.frames, picture, asked, height=min(512, height)), clip)
    print("\n".join(text(report)))
    return 0 if report.word == GOOD else 3


def pose_nets(args: argparse.Namespace) -> "tuple[Net, Net]":
    """Detector and pose net in torch, on a GPU where there is one. Raises ValueError where their files are not here."""
    import torch

    from ..pose.estimate import Net
    from ..pose.weights import load_detector, load_pose_net

    where, device = models(args), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, paths = 8 if device.type == "cuda" else 1, []
    for name in ("yolox-l", "dw-ll-ucoco-384"):
        file = catalogue().files[name]
        path = where.find(file)
        if path is None:
            raise ValueError(f"{file.name} is not in {where.models_dir}. Run: python cli.py download dwpose")
        paths.append(path)
    detector, pose_net = load_detector(paths[0]).to(device), load_pose_net(paths[1]).to(device)
    return (
        Net(torch.no_grad()(detector), device, batch),
        Net(torch.no_grad()(pose_net), device, batch, pose_net.width, pose_net.height),
    )


class Progress:
    """A line on the terminal, a second."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, doing: str) -> None:
        if sys.stderr.isatty() and time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            print(f"{doing}: {done} of {total} frames", file=sys.stderr)


def write_video(path: Path, pictures: "Trio", clip: "Clip") -> None:
    """H.264 in MP4 of a sequence of pictures, uint8 with even sides, at the clip's rate and with its sound."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1001), options={"crf": "19"})
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        speaker, heard = None, clip.sound
        if heard is not None:
            layout = {1: "mono", 2: "stereo"}.get(len(heard))
            speaker = container.add_stream("aac", rate=clip.sample_rate, layout=layout) if layout else None
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if heard is not None and speaker:
            for start in range(0, heard.shape[1], 1024):
                block = heard[:, start : start + 1024].copy()
                sound = av.AudioFrame.from_ndarray(block, format="fltp", layout=speaker.layout.name)
                sound.sample_rate, sound.pts, sound.time_base = clip.sample_rate, start, Fraction(1, clip.sample_rate)
                container.mux(speaker.encode(sound))
            container.mux(speaker.encode())
