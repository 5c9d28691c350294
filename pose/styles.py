"""How poses are drawn, as data: what each family of models was trained to see."""

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np

# The 18 hues of OpenPose's 18-joint drawing, red, green, blue. Limb i and joint i have hue i.
PALETTE = np.array(
    [
        (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
        (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
        (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
    ],
    np.uint8,
)  # fmt: skip
LIMBS = np.array(
    [
        (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
        (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
    ]
)  # fmt: skip
HAND_EDGES = np.array([(0 if j % 4 == 1 else j - 1, j) for j in range(1, 21)])
HAND_COLORS = np.array([np.rint(255 * np.array(colorsys.hsv_to_rgb(i / 20, 1, 1))) for i in range(20)], np.uint8)
HAND_DOT = np.array((0, 0, 255), np.uint8)
FACE_DOT = np.array((255, 255, 255), np.uint8)


@dataclass(frozen=True)
class Style:
    """Sizes are pixels of the drawing canvas, which is `scale` times the picture; 0 leaves the part out."""

    threshold: float  # the score from which a point is drawn
    limb: int = 4  # half-width of a limb
    joint: int = 4  # radius
    dim: float = 0.6  # limbs are this bright, joints full
    hand_line: int = 2
    hand_dot: int = 4
    face_dot: int = 0
    foot_dot: int = 0
    by_person: bool = False  # people one above the other; otherwise all limbs, then all joints, then hands, then faces
    swapped: bool = False  # red and blue exchanged
    scale: int = 1
    area: int = 0  # pixels of the pictures that the sizes are meant for, and grow with; 0: of any

    def sized(self, width: int, height: int) -> "Style":
        """The style for pictures of another area than its own, lines of whole pixels."""
        grow = math.sqrt(width * height / self.area) if self.area else 1.0
        names = ("limb", "joint", "hand_line", "hand_dot")
        return replace(self, **{name: max(1, round(getattr(self, name) * grow)) for name in names})


STYLES = {
    # What the SteadyDancer authors' preprocessing saves: twice the size of 576p, whatever the video's, red and blue
    # exchanged, no face.
    "SteadyDancer": Style(threshold=0.35, swapped=True, scale=2, area=1024 * 576),
    "DWPose": Style(threshold=0.3, face_dot=3),
    "controlnet_aux": Style(threshold=0.3, face_dot=3, by_person=True),
    "DWPose with feet": Style(threshold=0.3, face_dot=3, foot_dot=4),
    # For the estimator's contact sheet: fine lines at full brightness.
    "preview": Style(threshold=0.3, limb=2, joint=2, dim=1.0, hand_line=2, hand_dot=1, face_dot=1),
}
