"""The planner's solver against trying every setting there is."""

import random

from steadydancer.planning.plan import DOES_NOT_FIT, FITS, FITS_WITH_CHANGES
from support.planner_cases import compare_with_trying_everything


def test_the_solver_is_never_beaten_by_trying_everything():
    rng = random.Random(6)
    verdicts = [compare_with_trying_everything(rng) for _ in range(500)]
    assert all(verdicts.count(verdict) > 20 for verdict in (FITS, FITS_WITH_CHANGES, DOES_NOT_FIT)), "too one-sided"
