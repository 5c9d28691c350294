"""What the planner takes for granted of cards: their 8-bit units, and how often the VAE encodes."""

from dataclasses import replace

import pytest
from steadydancer.machine import gpus
from steadydancer.planning.estimate import block_seconds, native, unpack_seconds
from steadydancer.planning.job import job_for
from steadydancer.planning.model_sizes import model_of
from steadydancer.planning.planner import plan_job

INT8 = "turbowan2.1-t2v-14b-480p/int8"


@pytest.mark.parametrize(
    ("gpu", "runs"), [("RTX 3090", True), ("A100", True), ("RTX 4090", True), ("H100", True), ("RTX 2080", False)]
)
def test_int8_runs_as_it_is_stored_from_ampere_on(gpu, runs):
    card = gpus.card(gpu) if runs else replace(gpus.card("RTX 3090"), sm=75)
    model, job = model_of(INT8, []), job_for(INT8, 832, 480, 81)
    assert native(model, card) is runs
    assert (unpack_seconds(card, model) == 0) is runs
    dense = model_of("turbowan2.1-t2v-14b-480p/bf16", [])
    assert (block_seconds(job, card, model) < 0.9 * block_seconds(job, card, dense)) is runs


def test_int8_is_unpacked_on_b200():
    card = replace(gpus.card("H100"), sm=100)
    assert not native(model_of(INT8, []), card)


@pytest.mark.parametrize("gpu", ["RTX 3090", "A100"])
def test_fp8_needs_units_of_its_own(gpu):
    model = replace(model_of(INT8, []), precision="fp8")
    assert not native(model, gpus.card(gpu))
    assert native(model, gpus.card("RTX 4090"))


def test_picture_poses_and_negative_poses_are_encoded():
    def seconds(variant):
        plan = plan_job(job_for(variant, 832, 480, 81), gpus.card("RTX 4090"))
        return plan.phase("vae_encode").seconds

    assert seconds("steadydancer/fp8") == pytest.approx(3 * seconds("wan2.1/i2v-480p-fp8"))
