"""How counters, sizes and durations are put into words."""

import pytest
from steadydancer.base.progress import duration


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
