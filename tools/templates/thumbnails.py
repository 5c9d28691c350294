"""Draws the main template's picture for the templates list: the example's person, and the poses that its dance becomes.

    python dev.py run -- python tools/templates/thumbnails.py

Nothing in it is a result: the weights of the tests make noise.
"""

from pathlib import Path

import av
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"
INPUTS = EXAMPLES / "inputs"
NAMES = ("steadydancer_from_video", "Dance from a picture and a video.app")
MOMENTS = (20, 40)  # frames of the pose video
SIZE = (212, 377)  # of each part
GAP = 8


def main() -> None:
    """Writes the picture under each name."""
    with av.open(str(INPUTS / "steadydancer_example_poses.mp4")) as file:
        frames = [frame.to_image() for frame in file.decode(video=0)]
    parts = [Image.open(INPUTS / "steadydancer_example_person.png"), *(frames[moment] for moment in MOMENTS)]
    width, height = SIZE
    sheet = Image.new("RGB", (len(parts) * (width + GAP) - GAP, height), "white")
    for place, part in enumerate(parts):
        sheet.paste(part.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS), (place * (width + GAP), 0))
    for name in NAMES:
        sheet.save(EXAMPLES / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
