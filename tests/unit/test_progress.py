"""How counters, sizes and durations are put into words."""

import pytest
from steadydancer.base.progress import Rate, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.6, "60 s"),
        (60, "60 s"),
        (89, "89 s"),
        (89.6, "2 min"),
        (90, "2 min"),
        (3599, "1 h"),
        (3600, "1 h"),
        (5000, "1 h 23 min"),
    ],
)
def test_a_duration_is_said_in_one_way(seconds, words):
    assert duration(seconds) == words


def test_what_has_ended_says_no_rate_and_no_time_left():
    rate = Rate("frames")
    assert rate.line(0, 81) == "0 of 81 frames, 0.0 frames/s, starting"
    assert rate.line(81, 81) == "81 frames in 0 s"
    assert Rate("frames").line(1, 1) == "1 frame"
    assert Rate("B").line(3_000_000, 3_000_000) == "3.0 MB"
