"""The noise levels of rCM, the few-step sampling that TurboDiffusion's weights were trained for.

Source: Zheng et al., "rCM" (2025), and the published code of TurboDiffusion (Apache-2.0).
"""

import math

MIDDLE_ANGLES = (1.5, 1.4, 1.0)  # between the first noise level and none, in TrigFlow's angles
SIGMA_MAX = {"t2v": 80.0, "i2v": 200.0}
BOUNDARY = 0.9  # times below it belong to the low-noise expert


def rcm_times(steps: int, sigma_max: float) -> list[float]:
    """The times of `steps` (1 to 4) evaluations, and 0 at the end. 1 is noise alone.

    An angle θ is the time tan θ / (1 + tan θ); the first is that of the noise-to-signal ratio `sigma_max`.

    Raises ValueError for other numbers of steps.
    """
    if not 1 <= steps <= 1 + len(MIDDLE_ANGLES):
        raise ValueError(f"rCM has 1 to 4 steps, not {steps}. Choose one of these.")
    ratios = [sigma_max, *map(math.tan, MIDDLE_ANGLES)][:steps]
    return [*(ratio / (1.0 + ratio) for ratio in ratios), 0.0]


def high_noise_steps(times: list[float]) -> int:
    """How many of the evaluations belong to the high-noise expert: those before the first time below 0.9."""
    return next((i for i, time in enumerate(times) if time < BOUNDARY), len(times))
