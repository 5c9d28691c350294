"""What a node says about itself where people look: under the node, on the page."""

import pytest


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


DANCE = "steadydancer_example_dance.mp4"


def test_an_error_is_said_under_the_node(comfy_server):
    piece = node(
        "SteadyDancerDrivingVideo",
        video=["dance", 0], start=500.0, frames=5, fps="16 (the model's)", longest_side=320,
    )  # fmt: skip
    prompt = {"dance": node("LoadVideo", file=DANCE), "piece": piece, "see": node("PreviewImage", images=["piece", 0])}
    with comfy_server.events() as events:
        error = comfy_server.run(prompt).error
        events.wait_for("progress_text", lambda data: data["node"] == "piece")
    assert "nothing is left after 500.0 s" in error
    assert events.texts[-1] == ("piece", error)


def test_an_error_of_ours_is_named_without_the_folder_of_the_installation(comfyui):
    from execution import full_type_name
    from steadydancer.bucket.client import StorageError
    from steadydancer.services.progress import told

    with pytest.raises(StorageError) as caught, told():
        raise StorageError("The bucket is full.")
    assert full_type_name(type(caught.value)) == "SteadyDancer.StorageError"


def test_hours_of_sampling_are_announced(comfyui, monkeypatch):
    """The planner's estimate for the size, the steps and the guidance of the very run."""
    from types import SimpleNamespace

    import torch
    from comfy.model_patcher import ModelPatcher
    from steadydancer.dancer.guidance import SteadyDancerGuider
    from steadydancer.machine import gpus
    from steadydancer.services import sampling

    monkeypatch.setattr(sampling.this_machine, "present_card", lambda: gpus.card("RTX 4090"))
    latent, find = torch.empty(1, 16, 21, 128, 72, device="meta"), lambda file: None

    def guider(cfg, pose=True):
        made = SteadyDancerGuider(ModelPatcher(torch.nn.Module(), "cpu", "cpu"))
        made.set_cfg(cfg)
        made.set_pose_guidance([[torch.zeros(1), {}]] if pose else None, 1.0, 0.1, 0.4)
        return made

    def seconds(guider, steps, variant="steadydancer/fp8"):
        return sampling.expected(variant, lambda: find, guider, latent, steps)

    full, text, fast = seconds(guider(5.0), 40), seconds(guider(5.0, pose=False), 40), seconds(guider(1.0), 4)
    assert 2400 < full < 4800 and full / text == pytest.approx((2 + 11 / 40) / 2, rel=0.05)
    alone = seconds(SimpleNamespace(cfg=1.0), 4)
    assert alone == seconds(guider(1.0, pose=False), 4)
    assert fast == pytest.approx(alone * 5 / 4), "the pose is a branch of the second step, and of no other"
    assert 60 < fast < full / 15 and seconds(guider(5.0), 40, "my own.safetensors") == 0
