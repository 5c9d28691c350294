"""OpenCV's own shapes, which the published drawings were made with: the reference for ours."""

import numpy as np
from steadydancer.pose.raster import Painter, limb_geometry


class OpenCVPainter(Painter):
    """The same with OpenCV; importing it fails where OpenCV is not installed."""

    import cv2

    def limbs(self, start: np.ndarray, end: np.ndarray, half_width: int, colors: np.ndarray) -> None:
        for at, half, degrees, color in zip(*(part.tolist() for part in (*limb_geometry(start, end), colors))):
            corners = self.cv2.ellipse2Poly(at, (half, half_width), degrees, 0, 360, 1)
            self.cv2.fillConvexPoly(self.canvas, corners, color)

    def lines(self, start: np.ndarray, end: np.ndarray, thickness: int, colors: np.ndarray) -> None:
        for a, b, color in zip(start.tolist(), end.tolist(), colors.tolist()):
            self.cv2.line(self.canvas, a, b, color, thickness)

    def discs(self, centers: np.ndarray, radius: int, colors: np.ndarray) -> None:
        for at, color in zip(centers.tolist(), colors.tolist()):
            self.cv2.circle(self.canvas, at, radius, color, -1)

    def take_touched(self) -> np.ndarray:
        return np.flatnonzero(self.pixels != 0)
