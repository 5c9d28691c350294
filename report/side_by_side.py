"""Picture, pose and result beside each other, frame by frame."""

from collections.abc import Iterator

import numpy as np

from ..pose.draw import draw
from ..pose.keypoints import Poses
from ..pose.styles import STYLES
from .body import poses_at


class Trio:
    """A sequence of pictures uint8 [height, width, 3] of a width in pixels, or a height; both even. Drawn when asked for."""

    def __init__(self, frames: np.ndarray, picture: np.ndarray, asked: Poses, width: int = 0, height: int = 0) -> None:
        tall, wide = frames.shape[1:3]
        scale = width / (3 * wide) if width else height / tall
        self.one = max(2, round(wide * scale) // 2 * 2), max(2, round(tall * scale) // 2 * 2)  # width, height
        self.frames, self.asked = frames, asked.resized(*self.one)
        self.picture = resized(picture, *self.one)

    @property
    def width(self) -> int:
        """Pixels of all three."""
        return 3 * self.one[0]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.one[1]

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[frame] for frame in range(len(self)))

    def __getitem__(self, frame: int) -> np.ndarray:
        pose = (draw(poses_at(self.asked, frame), STYLES["preview"])[0] * 255).round().astype(np.uint8)
        return np.concatenate([self.picture, pose, resized(self.frames[frame], *self.one)], axis=1)


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [h, w, 3], 0..1, as uint8 of another size."""
    from PIL import Image

    levels = (picture[..., :3] * 255).round().clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BOX))


def covering(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [h, w, 3], 0..1, in the size of the result [height, width, 3]: its middle, as Fit Reference Image crops."""
    tall, wide = picture.shape[:2]
    scale = max(width / wide, height / tall)
    cut_wide, cut_tall = min(wide, round(width / scale)), min(tall, round(height / scale))
    left, top = (wide - cut_wide) // 2, (tall - cut_tall) // 2
    middle = picture[top : top + cut_tall, left : left + cut_wide, :3]
    if middle.shape[:2] == (height, width):
        return np.ascontiguousarray(middle, np.float32)
    from PIL import Image

    channels = [
        Image.fromarray(np.ascontiguousarray(middle[..., i], np.float32)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        for i in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1).clip(0, 1)
