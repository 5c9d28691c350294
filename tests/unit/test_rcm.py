"""The published times and the table of experts."""

import math

import pytest
from safetensors.torch import load_file
from steadydancer.turbo.schedule import high_noise_steps, rcm_times
from support import GOLDEN

T2V = [0.987654320987654, 0.933781061416858, 0.852895394823775, 0.608979049230431]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_times_are_the_published_ones(steps):
    for times, first in ((rcm_times(steps, 80.0), T2V[0]), (rcm_times(steps, 200.0), 0.995024875621891)):
        expected = [first, *T2V[1:steps], 0.0]
        assert len(times) == steps + 1
        assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(times, expected))


def test_times_of_the_published_run():
    golden = load_file(GOLDEN / "turbowan_t2v_forward.safetensors")["traj.t"].double().tolist()
    assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(rcm_times(4, 80.0), golden, strict=True))


@pytest.mark.parametrize(("steps", "high"), [(1, 1), (2, 2), (3, 2), (4, 2)])
@pytest.mark.parametrize("sigma_max", [80.0, 200.0, 1600.0])
def test_who_does_which_step(steps, high, sigma_max):
    assert high_noise_steps(rcm_times(steps, sigma_max)[:-1]) == high


def test_the_boundary_itself_is_the_high_experts():
    assert high_noise_steps([0.95, 0.9, 0.89]) == 2


@pytest.mark.parametrize("steps", [0, 5])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="1 to 4 steps"):
        rcm_times(steps, 80.0)
