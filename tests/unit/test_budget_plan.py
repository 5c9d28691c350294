"""The plan that loaders take: through JSON and back, and a plan of another version refused."""

import json

import pytest
from steadydancer.budget.plan import Card, Job, Phase, Plan


def example() -> Plan:
    job = Job("steadydancer", "steadydancer/fp8", 832, 480, 81)
    card = Card("RTX 4090", 24 << 30, 23 << 30, 89, 165e12, 330e12, 1.0e12, 25e9, 0.4)
    phases = (
        Phase("sample", "gpu", weights=5, activations=4, transient=3, context=2, others=1, slack=6, seconds=1.5),
        Phase("frames", "cpu", activations=99),
    )
    return Plan(job, card, phases, "fits", job.variant, "full", 5, 4, advice=("One sentence.",))


def test_a_plan_comes_back_from_json_as_it_was():
    assert Plan.from_json(example().to_json()) == example()


def test_the_peak_is_of_the_card_and_not_of_ram():
    assert example().peak == 21


def test_a_plan_of_another_version_is_refused():
    data = json.loads(example().to_json()) | {"version": 0}
    with pytest.raises(ValueError, match="version 0, and version 1 is needed"):
        Plan.from_json(json.dumps(data))
