#!/usr/bin/env python3
"""Speed of the Dance Report without the pose nets, on a drawn dance: frames a second. The nets are timed by pose.py.

python dev.py run -- python benchmarks/report.py [--frames 81] [--size 576x1024]
"""

import argparse
import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)
cli.load_package()

from steadydancer.report.agreement import agreement  # noqa: E402
from steadydancer.report.body import paired  # noqa: E402
from steadydancer.report.motion import motion_figures  # noqa: E402
from steadydancer.report.person import colours  # noqa: E402
from steadydancer.report.report import Report, make_report  # noqa: E402
from steadydancer.report.sheet import sheet  # noqa: E402
from steadydancer.report.side_by_side import Trio  # noqa: E402
from steadydancer.report.stability import stability  # noqa: E402
from steadydancer.tools.draw_dancer import dance, person  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--size", default="576x1024", help="WIDTHxHEIGHT in pixels")
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    poses = dance(args.frames, width_px=width, height_px=height)
    frames = np.empty((args.frames, height, width, 3), np.float32)
    for frame in range(args.frames):
        frames[frame] = np.asarray(person(poses, frame), np.float32) / 255
    first = replace(poses, points=poses.points[:1], scores=poses.scores[:1])
    report: list[Report] = []
    parts = (
        ("agreement of the poses", lambda: agreement(poses, *paired(poses, poses))),
        ("colours", lambda: colours(frames, poses, frames[0], first)),
        ("stability of the pixels", lambda: stability(frames, frames[0], poses, poses, poses)),
        ("motion", lambda: motion_figures(poses, poses)),
        ("the whole report", lambda: report.append(make_report(frames, frames[0], poses, poses, first, 16.0))),
        ("sheet", lambda: sheet(report[0], frames, frames[0], poses)),
        ("side by side, 512 high", lambda: list(Trio(frames, frames[0], poses, height=512))),
    )
    print(f"{width}x{height}, {args.frames} frames")
    print(f"{'':28} {'wall':>9} {'CPU':>9}  ms a frame")
    for name, work in parts:
        start, burnt = time.perf_counter(), time.process_time()
        work()
        wall, cpu = (
            1000 * seconds / args.frames for seconds in (time.perf_counter() - start, time.process_time() - burnt)
        )
        print(f"{name:28} {wall:9.2f} {cpu:9.2f}  {1000 / wall:9.1f} frames/s")


if __name__ == "__main__":
    main()
