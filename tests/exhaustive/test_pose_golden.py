"""Drawing: the authors' canvas against OpenCV's and our own rasteriser."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import binary_dilation
from steadydancer.pose.raster import Painter
from steadydancer.pose.styles import STYLES
from support import GOLDEN
from support.opencv_painter import OpenCVPainter
from support.poses import canvas, golden_aligned

SD = STYLES["SteadyDancer"]
NEAR = np.ones((3, 3), bool)


def golden_pairs(make) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ours and the authors', as saved and before red and blue are exchanged."""
    golden = np.load(GOLDEN / "pose_align.npz")
    aligned = golden_aligned(golden)
    pairs = []
    for name, style in (("canvas.saved", SD), ("canvas.rgb_before_swap", replace(SD, swapped=False))):
        pairs += [(canvas(aligned, style, make, frame), theirs) for frame, theirs in enumerate(golden[name])]
    assert pairs
    return pairs


def test_opencv_gives_the_authors_canvas_to_the_pixel():
    for ours, theirs in golden_pairs(OpenCVPainter):
        np.testing.assert_array_equal(ours, theirs)


def test_our_rasteriser_gives_the_authors_canvas_but_for_edge_pixels():
    for ours, theirs in golden_pairs(Painter):
        drawn = ours.any(-1) | theirs.any(-1)
        assert (ours == theirs).all(-1)[drawn].mean() >= 0.95
        packed = [picture.astype(np.uint32) @ [65536, 256, 1] for picture in (ours, theirs)]
        for color in np.unique(
            packed[1][drawn]
        ):  # every limb, joint and hand edge is there, and none off by more than a pixel
            y, x = np.nonzero((packed[0] == color) | (packed[1] == color))
            part = slice(max(y.min() - 2, 0), y.max() + 3), slice(max(x.min() - 2, 0), x.max() + 3)
            a, b = packed[0][part] == color, packed[1][part] == color
            if color and b.sum() > 2:
                assert a.any()
                assert not (a & ~binary_dilation(b, NEAR)).any() and not (b & ~binary_dilation(a, NEAR)).any()
