"""The steps of a loader node, each once and in the order that docs/architecture.md says; the real ones, counted."""

import pytest
from support import tiny

STEPS = ("choice", "require_fit", "require_room", "fetch", "encoders")  # of services/loading itself
VARIANT = "steadydancer/fp16"


@pytest.fixture
def steps(comfyui, monkeypatch):
    """The names of the steps as they are entered, `fetch` with the ids; each does what it always does."""
    from steadydancer.loaders import build, placement
    from steadydancer.services import loading, progress

    models = comfyui / "models"
    tiny.write_steadydancer(models / "diffusion_models" / "Wan21_I2V_SteadyDancer_fp16.safetensors", "fp16")
    tiny.write_lora(models / "loras" / "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors")
    tiny.write_vae(models / "vae" / "wan_2.1_vae.safetensors")
    monkeypatch.setattr(progress, "show", lambda text, node_id: True)  # no page is open in this process
    entered = []

    def count(room, name):
        real = getattr(room, name)

        def step(*args, **kwargs):
            entered.append(" ".join(["fetch", *args]) if name == "fetch" else name)
            return real(*args, **kwargs)

        monkeypatch.setattr(room, name, step)

    for name in STEPS:
        count(loading, name)
    count(build, "load_diffusion")
    count(build, "with_lora")
    count(placement, "placed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("STEADYDANCER_VARIANT", "fp16")
    return entered


def execute(**inputs):
    """What the loader node returns, as the executor calls it."""
    from comfy_execution.utils import CurrentNodeContext
    from steadydancer.nodes.loaders import SteadyDancerLoader

    with CurrentNodeContext("prompt", "loader"):
        return SteadyDancerLoader.execute("auto", **inputs).args


def test_each_step_once_and_in_this_order(steps):
    assert execute(step_distill=False)[4] == VARIANT
    assert steps == ["choice", "require_room", "fetch steadydancer-fp16", "fetch", "load_diffusion", "encoders"]


def test_with_a_plan_and_the_lora(steps):
    from steadydancer.nodes.planner import USUAL, SteadyDancerVRAMPlanner

    plan = SteadyDancerVRAMPlanner.plan(**{**USUAL, "width": 64, "height": 64, "frames": 17})
    steps.clear()
    assert execute(step_distill=True, plan=plan)[4] == VARIANT
    assert steps == [
        "require_fit", "require_room", "fetch steadydancer-fp16", "fetch lightx2v-i2v-480p-rank64",
        "load_diffusion", "with_lora", "placed", "encoders",
    ]  # fmt: skip


def test_an_encoder_is_fetched_at_its_first_use_and_once(steps):
    from comfy_execution.utils import CurrentNodeContext

    vae = execute(step_distill=False)[3]
    steps.clear()
    with CurrentNodeContext("prompt", "decode"):
        assert vae.first_stage_model is vae.first_stage_model
    assert len(steps) == 1 and steps[0].startswith("fetch ") and "vae" in steps[0]
