"""Draws the package's own example input: a cartoon person, a dance, and its pose videos.

    python dev.py run -- python tools/draw_dancer.py

writes example_workflows/inputs/. The dance is forward kinematics over a few sines; its joints are exact, so the same
dancer also measures the pose estimator and the alignment.
"""

import json
import math
import runpy
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    runpy.run_path(str(ROOT / "cli.py"))["load_package"]()

# isort: split
from steadydancer.pose import interchange  # noqa: E402
from steadydancer.pose.augment import augment  # noqa: E402
from steadydancer.pose.draw import draw  # noqa: E402
from steadydancer.pose.keypoints import COUNT, LEFT_HAND, RIGHT_HAND, Poses  # noqa: E402
from steadydancer.pose.styles import STYLES  # noqa: E402

WIDTH, HEIGHT, FPS, FRAMES = 576, 1024, 16, 161
INPUTS = ROOT / "example_workflows" / "inputs"

# Lengths in parts of the body's height.
BONES = {
    "neck": 0.09,
    "shoulder": 0.105,
    "arm": 0.155,
    "forearm": 0.14,
    "back": 0.29,
    "hip": 0.065,
    "thigh": 0.235,
    "shin": 0.23,
}
SKIN, HAIR, JACKET, TROUSERS, SHOES = "#e8b796", "#4a2f24", "#2f5fa8", "#39404d", "#c8472f"


def joints(beat: float, height: float, center: tuple[float, float]) -> np.ndarray:
    """The 18 body joints [18, 2] in pixels at a time counted in beats; `center` is between the hips at rest."""
    swing = math.sin(math.pi * beat)
    bounce = abs(math.sin(math.pi * beat))
    unit = {name: length * height for name, length in BONES.items()}
    hips = np.array(center) + (0.035 * height * swing, 0.02 * height * bounce)
    lean = 0.10 * swing

    def at(origin: np.ndarray, angle: float, length: float) -> np.ndarray:
        """Angle 0 points down, a quarter turn to the picture's right."""
        return origin + length * np.array((math.sin(angle), math.cos(angle)))

    out = np.zeros((18, 2))
    neck = out[1] = at(hips, math.pi + lean, unit["back"])
    nose = out[0] = at(neck, math.pi - 0.6 * lean, unit["neck"])
    head = 0.022 * height
    out[14], out[15] = nose + (-head * 0.7, -head * 0.8), nose + (head * 0.7, -head * 0.8)
    out[16], out[17] = nose + (-head * 1.6, -head * 0.4), nose + (head * 1.6, -head * 0.4)
    for side, (shoulder, hip) in ((-1, (2, 8)), (1, (5, 11))):
        phase = beat + (0.5 if side > 0 else 0.0)
        raised = 1.25 + 0.75 * math.sin(math.pi * phase)
        out[shoulder] = neck + (side * unit["shoulder"], 0.012 * height)
        out[shoulder + 1] = at(out[shoulder], side * raised, unit["arm"])
        bend = raised + 0.7 + 0.6 * math.sin(2 * math.pi * phase)
        out[shoulder + 2] = at(out[shoulder + 1], side * bend, unit["forearm"])
        out[hip] = hips + (side * unit["hip"], 0.0)
        foot = np.array((center[0] + side * 0.11 * height, center[1] + unit["thigh"] * 0.985 + unit["shin"] * 0.985))
        out[hip + 1], out[hip + 2] = knee(out[hip], foot, unit["thigh"], unit["shin"], side), foot
    return out


def knee(hip: np.ndarray, foot: np.ndarray, thigh: float, shin: float, side: int) -> np.ndarray:
    """Where the knee is when hip and foot are given: the outer of the two intersections."""
    way = foot - hip
    distance = min(float(np.hypot(*way)), thigh + shin - 1e-3)
    along = (thigh**2 - shin**2 + distance**2) / (2 * distance)
    across = math.sqrt(max(thigh**2 - along**2, 0.0))
    direction = way / np.hypot(*way)
    return hip + along * direction + side * across * np.array((direction[1], -direction[0]))


def hand(wrist: np.ndarray, elbow: np.ndarray, height: float, side: int) -> np.ndarray:
    """21 hand points: the wrist, then five fingers of four joints, fanned out along the forearm."""
    direction = (wrist - elbow) / max(np.hypot(*(wrist - elbow)), 1e-6)
    across = np.array((-direction[1], direction[0])) * side
    points = [wrist]
    for finger, spread in enumerate((-0.9, -0.4, 0.0, 0.35, 0.7)):
        ray = direction + spread * across * 0.6
        length = height * (0.030 if finger == 0 else 0.045)
        points += [wrist + ray * length * (0.45 + 0.2 * joint) for joint in range(4)]
    return np.array(points)


def dance(frames: int = FRAMES, height: float = 0.66, width_px: int = WIDTH, height_px: int = HEIGHT) -> Poses:
    """The dance as poses; `height` is the person's height in parts of the picture's."""
    body = height * height_px
    points, scores = np.zeros((frames, 1, COUNT, 2)), np.zeros((frames, 1, COUNT), np.float32)
    for i in range(frames):
        bones = joints(i / FPS * 2, body, (width_px / 2, height_px * 0.52))
        points[i, 0, :18] = bones
        points[i, 0, LEFT_HAND] = hand(bones[7], bones[6], body, 1)
        points[i, 0, RIGHT_HAND] = hand(bones[4], bones[3], body, -1)
    scores[:, :, :18] = scores[:, :, LEFT_HAND] = scores[:, :, RIGHT_HAND] = 0.95
    return Poses(points, scores, width_px, height_px, tracked=True)


def person(poses: Poses, frame: int, jacket: str = JACKET) -> Image.Image:
    """The cartoon person in that pose, in front of a wall and a floor."""
    scale = 2
    size = (poses.width * scale, poses.height * scale)
    picture = Image.new("RGB", size, "#d9dee2")
    pen = ImageDraw.Draw(picture)
    floor = int(size[1] * 0.86)
    for y in range(floor):
        shade = y / floor
        pen.line((0, y, size[0], y), (int(228 - 26 * shade), int(232 - 22 * shade), int(236 - 18 * shade)))
    pen.rectangle((0, floor, *size), "#a98f78")
    pen.line((0, floor, size[0], floor), "#8b735e", 6)
    points = poses.points[frame, 0] * scale
    body = points[:18]
    unit = np.hypot(*(body[1] - (body[8] + body[11]) / 2)) / BONES["back"]

    def bone(a: np.ndarray, b: np.ndarray, color: str, thickness: float) -> None:
        radius = thickness * unit / 2
        pen.line((*a, *b), color, int(2 * radius))
        for x, y in (a, b):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), color)

    foot_y = max(body[10][1], body[13][1]) + 0.03 * unit
    pen.ellipse(
        (
            body[[10, 13], 0].min() - 0.08 * unit,
            foot_y - 0.02 * unit,
            body[[10, 13], 0].max() + 0.08 * unit,
            foot_y + 0.025 * unit,
        ),
        "#8b735e",
    )
    for hip, knee_, foot in ((8, 9, 10), (11, 12, 13)):
        bone(body[hip], body[knee_], TROUSERS, 0.085)
        bone(body[knee_], body[foot], TROUSERS, 0.065)
        side = -1 if hip == 8 else 1
        bone(body[foot] + (0, 0.012 * unit), body[foot] + (side * 0.05 * unit, 0.022 * unit), SHOES, 0.045)
    hips = (body[8] + body[11]) / 2
    pen.polygon(
        [
            tuple(p)
            for p in (
                body[2] + (-0.02 * unit, 0),
                body[5] + (0.02 * unit, 0),
                body[11] + (0.035 * unit, 0.01 * unit),
                body[8] + (-0.035 * unit, 0.01 * unit),
            )
        ],
        jacket,
    )
    bone(body[8], body[11], jacket, 0.07)
    bone(body[2], body[5], jacket, 0.06)
    bone(body[1] + (0, 0.02 * unit), (body[0] + body[1]) / 2, SKIN, 0.05)
    pen.line((*body[1], *hips), "#f2efe8", int(0.012 * unit))
    for shoulder, elbow, wrist, points_of in ((2, 3, 4, RIGHT_HAND), (5, 6, 7, LEFT_HAND)):
        bone(body[shoulder], body[elbow], jacket, 0.06)
        bone(body[elbow], body[wrist], jacket, 0.048)
        fingers = points[points_of]
        for finger in range(5):
            bone(fingers[0], fingers[4 + 4 * finger], SKIN, 0.013)
        bone(fingers[0], fingers[9], SKIN, 0.03)
    nose = body[0]
    r = 0.062 * unit
    pen.ellipse((nose[0] - r * 1.08, nose[1] - r * 1.45, nose[0] + r * 1.08, nose[1] + r * 0.75), HAIR)
    pen.ellipse((nose[0] - r * 0.88, nose[1] - r * 1.0, nose[0] + r * 0.88, nose[1] + r * 1.05), SKIN)
    for eye in (14, 15):
        x, y = body[eye]
        pen.ellipse((x - r * 0.17, y - r * 0.12, x + r * 0.17, y + r * 0.12), "white")
        pen.ellipse((x - r * 0.09, y - r * 0.11, x + r * 0.09, y + r * 0.11), "#2b2522")
    pen.line(
        (nose[0], nose[1] - r * 0.05, nose[0] - r * 0.1, nose[1] + r * 0.18, nose[0] + r * 0.06, nose[1] + r * 0.2),
        "#c58f6f",
        3,
    )
    pen.arc((nose[0] - r * 0.42, nose[1] + r * 0.1, nose[0] + r * 0.42, nose[1] + r * 0.62), 20, 160, "#a3413a", 5)
    return picture.resize((poses.width, poses.height), Image.Resampling.LANCZOS)


def write_video(path: Path, frames: Iterable[Image.Image | np.ndarray], crf: int, sound: bool = False) -> None:
    """H.264 with, on demand, a plain drum on every beat."""
    rate = 32000
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "slow"}
        speaker = container.add_stream("aac", rate=rate, layout="mono") if sound else None
        count = 0
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
            count += 1
        container.mux(stream.encode())
        if speaker:
            time = np.arange(int(count / FPS * rate)) / rate
            since_beat = time % 0.5
            drum = 0.5 * np.sin(2 * np.pi * 90 * since_beat) * np.exp(-12 * since_beat)
            for start in range(0, len(drum), 1024):
                block = av.AudioFrame.from_ndarray(drum[None, start : start + 1024].astype(np.float32), "fltp", "mono")
                block.sample_rate, block.pts, block.time_base = rate, start, Fraction(1, rate)
                container.mux(speaker.encode(block))
            container.mux(speaker.encode())


def main() -> None:
    """Writes the picture, its pose, the dance and the two pose videos."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    poses = dance()
    person(poses, 0).save(INPUTS / "steadydancer_example_person.png", optimize=True)
    first = replace(poses, points=poses.points[:1], scores=poses.scores[:1])
    (INPUTS / "steadydancer_example_pose.json").write_text(json.dumps(interchange.write(first)), encoding="utf-8")
    style = STYLES["SteadyDancer"]
    for name, clip in (("poses", poses), ("negative_poses", augment(poses, seed=0))):
        pictures = (draw(clip, style) * 255).round().astype(np.uint8)
        write_video(INPUTS / f"steadydancer_example_{name}.mp4", pictures, crf=18)
    other = dance(height=0.60)
    write_video(
        INPUTS / "steadydancer_example_dance.mp4",
        (person(other, i, "#9a3f6d") for i in range(FRAMES)),
        crf=26,
        sound=True,
    )


if __name__ == "__main__":
    main()
