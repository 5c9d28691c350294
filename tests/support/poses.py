"""Synthetic people with known proportions, for tests that need to know the truth, and the golden file's dancer."""

import numpy as np
from steadydancer.pose.align import align
from steadydancer.pose.draw import paint
from steadydancer.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, Poses, empty
from steadydancer.pose.styles import Style

# Bone lengths of a walker, as parts of the body's height.
BONES = {
    "neck": 0.12,
    "shoulder": 0.11,
    "upper arm": 0.17,
    "lower arm": 0.15,
    "body": 0.3,
    "hip": 0.06,
    "upper leg": 0.23,
    "lower leg": 0.22,
}


def walker(
    frames: int, height: float = 600.0, x: float = 400.0, speed: float = 0.0, phase: float = 0.0, **bones: float
) -> np.ndarray:
    """Points [frames, 134, 2] in pixels of a person who swings arms and legs; `bones` replaces lengths."""
    size = {name: value * height for name, value in (BONES | bones).items()}
    time = np.arange(frames)
    points = np.zeros((frames, 134, 2))
    neck = np.stack([x + speed * time, np.full(frames, 200.0)], -1)

    def bone(length: float, angle: np.ndarray | float) -> np.ndarray:
        """From straight down, turned by `angle` radians."""
        angle = np.broadcast_to(angle, frames)
        return length * np.stack([np.sin(angle), np.cos(angle)], -1)

    swing = 0.5 * np.sin(0.3 * time + phase)
    points[:, 1] = neck
    points[:, 0] = neck + bone(size["neck"], np.pi + 0.1 * swing)
    eye, ear = 0.25 * size["neck"], 0.4 * size["neck"]
    for side, shoulder, hip, at_eye, at_ear in ((-1, 2, 8, 14, 16), (1, 5, 11, 15, 17)):
        points[:, at_eye] = points[:, 0] + [side * eye, -eye]
        points[:, at_ear] = points[:, at_eye] + [side * ear, 0.2 * ear]
        points[:, shoulder] = neck + [side * size["shoulder"], 0.0]
        points[:, shoulder + 1] = points[:, shoulder] + bone(size["upper arm"], side * (0.6 + swing))
        points[:, shoulder + 2] = points[:, shoulder + 1] + bone(size["lower arm"], side * (0.9 - swing))
        points[:, hip] = neck + [side * size["hip"], size["body"]]
        points[:, hip + 1] = points[:, hip] + bone(size["upper leg"], side * (0.1 + 0.6 * swing))
        points[:, hip + 2] = points[:, hip + 1] + bone(size["lower leg"], side * 0.05)
    for part, wrist in ((LEFT_HAND, 7), (RIGHT_HAND, 4)):
        points[:, part] = (
            points[:, [wrist]] + 0.03 * height * np.random.default_rng(0).standard_normal((21, 2)).cumsum(0) / 4
        )
    return points


def clip(*people: np.ndarray, width: int = 800, height: int = 1000, score: float = 0.9) -> Poses:
    poses = empty(len(people[0]), len(people), width, height)
    for person, points in enumerate(people):
        poses.points[:, person] = points
        poses.scores[:, person] = score
    return poses


def length(poses: Poses, a: int, b: int, person: int = 0) -> np.ndarray:
    """[frames] the distance between two points."""
    return np.linalg.norm(poses.points[:, person, a] - poses.points[:, person, b], axis=-1)


def golden_clip(golden, name: str, size: str) -> Poses:
    """A clip of the golden file: coordinates 0..1, -1 for missing hand points; drive.subset < 0 for joints not drawn."""
    width, height = (int(v) for v in golden[size])
    body, hands, faces = (np.atleast_3d(golden[f"{name}.{part}"]) for part in ("body", "hands", "faces"))
    body, hands, faces = body.reshape(-1, 18, 2), hands.reshape(-1, 2, 21, 2), faces.reshape(-1, 68, 2)
    poses = empty(len(body), 1, width, height)
    for part, values in ((BODY, body), (LEFT_HAND, hands[:, 0]), (RIGHT_HAND, hands[:, 1]), (FACE, faces)):
        poses.points[:, 0, part] = values * [width, height]
        poses.scores[:, 0, part] = (values != -1).all(-1)
    poses.scores[:, 0, BODY] = 1
    if name == "drive":
        poses.scores[:, :, BODY][golden["drive.subset"] < 0] = 0.1
    return poses


def golden_aligned(golden) -> Poses:
    driving, reference = golden_clip(golden, "drive", "size.video_wh"), golden_clip(golden, "ref", "size.ref_wh")
    width, height = (int(v) // 2 for v in golden["size.canvas_wh"])
    return align(driving, reference, width, height, mode="official")


def canvas(poses: Poses, style: Style, make, frame: int = 0) -> np.ndarray:
    """One frame as `make`, a painter's class, draws it: uint8 [height, width, 3]."""
    brush = make(poses.width * style.scale, poses.height * style.scale)
    paint(brush, poses, frame, style)
    return brush.canvas[..., :3]
