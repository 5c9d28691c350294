"""The selector in a running ComfyUI: it chooses once, and the loader after it is not run again."""

import pytest


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def prompt(mark, **selector):
    choice = {"family": "steadydancer", "budget": 24.0, "preference": "balanced", "generation": "30xx, A100 (Ampere)"}
    return {
        "select": node("SteadyDancerVariantSelector", **{**choice, **selector}),
        "loader": node("SteadyDancerLoader", variant=["select", 0], step_distill=False),
        "reason": node("PreviewAny", source=["select", 1]),
        "used": node("PreviewAny", source=["loader", 4], title=mark),
    }


def planner():
    return node(
        "SteadyDancerVRAMPlanner", variant="steadydancer/Q6_K", width=64, height=64, frames=17, steps=2,
        guidance="text", step_distill=False, lora="none", gpu="this one", reserve=0.0,
    )  # fmt: skip


def test_two_identical_prompts_choose_the_same_and_load_once(start_comfy, tmp_path):
    from support.tiny_gguf import write_steadydancer_gguf

    comfy = start_comfy()
    # the published name's pattern, so that nothing is fetched
    folder = comfy.base_directory / "models/diffusion_models"
    write_steadydancer_gguf(folder / "Wan21_I2V_SteadyDancer_fp16-Q6_K_fix_5d_tensor.gguf", "Q6_K")
    first = comfy.run(prompt("first"))
    assert first.error is None, first.error
    assert first.outputs["used"]["text"][0] == "steadydancer/Q6_K"
    assert "Q6_K: 13.7 GB, all of it on the card" in first.outputs["reason"]["text"][0]
    second = comfy.run(prompt("second"))
    assert {"select", "loader"} <= set(second.cached)
    auto = {**prompt("auto"), "plan": planner(), "shown": node("PreviewAny", source=["plan", 3])}
    auto["loader"]["inputs"] = {"variant": "auto", "step_distill": False, "plan": ["plan", 0]}
    planned = comfy.run(auto)
    assert planned.error is None, planned.error
    assert planned.outputs["used"]["text"][0] == "steadydancer/Q6_K", "auto is what the plan is for"
    third = comfy.run(prompt("third", preference="smallest", budget=18.0))
    assert "select" not in third.cached


def test_auto_of_the_loader_follows_card_and_files(comfyui, monkeypatch):
    """The cards are made up: this machine has none."""
    from steadydancer.nodes import loaders, selector
    from steadydancer.planning.selector import Card

    def auto(gb, sm):
        monkeypatch.setattr(selector, "this_card", lambda: Card("this GPU", gb, sm))
        return loaders.SteadyDancerLoader.fingerprint_inputs("auto", False)[0]

    fp8 = comfyui / "models/diffusion_models/Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors"
    assert [auto(24.5, 89), auto(24.5, 86), auto(12.0, 86)] == [
        "steadydancer/fp8", "steadydancer/Q6_K", "steadydancer/Q4_K_M",
    ]  # fmt: skip
    fp8.touch()
    try:
        assert {auto(24.5, 89), auto(24.5, 86), auto(12.0, 86), auto(80.0, 80)} == {"steadydancer/fp8"}
    finally:
        fp8.unlink()


def test_auto_with_a_plan_is_the_plans_business(comfyui, monkeypatch):
    """ComfyUI gives None for what is linked: on another card the selector chooses otherwise, and nothing is loaded again."""
    from steadydancer.nodes import loaders, selector
    from steadydancer.planning.selector import Card

    found = []
    for gb, sm in ((24.5, 89), (12.0, 86)):
        card = Card("this GPU", gb, sm)
        monkeypatch.setattr(selector, "this_card", lambda card=card: card)
        found.append([loaders.SteadyDancerLoader.fingerprint_inputs("auto", False, *plan) for plan in ((None,), ())])
    (linked, alone), (linked_on_another, alone_on_another) = found
    assert linked == linked_on_another and alone != alone_on_another


@pytest.mark.parametrize(("sm", "native"), [(89, True), (88, False)])
def test_the_planner_knows_whether_fp8_is_multiplied_natively(comfyui, monkeypatch, sm, native):
    """88 is what this_card says of an RTX 4090 whose PyTorch cannot."""
    import torch
    from steadydancer.machine import gpus
    from steadydancer.planning.selector import Card
    from steadydancer.services import this_machine as card

    like = gpus.card("RTX 4090")
    monkeypatch.setattr(card, "this_card", lambda: Card("this GPU", 24.5, sm))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 4090")
    properties = type("Properties", (), {"total_memory": like.total})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = card.present_card()
    assert (found.fp8 > 0) is native and (found.sm, found.bf16) == (sm, like.bf16)


def test_the_card_is_measured_steadily(comfyui, monkeypatch):
    """A GB more or less in other programs, or in PyTorch's own libraries, makes no other card."""
    import comfy.model_management
    import torch
    from steadydancer.planning.selector import Card
    from steadydancer.services import this_machine as selector

    free = 24.6e9
    gpu = torch.device("cuda", 0)
    total = type("Properties", (), {"total_memory": 25.7e9})
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 25.7e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device: True)
    selector.measured.clear()
    assert selector.this_card() == Card("this GPU", 24.5, 89)
    free = 23.9e9
    assert selector.this_card().gb == 24.5
    free = 20.0e9
    assert selector.this_card().gb == 20.0
    # an AMD card: its (11, 0) is no compute capability of NVIDIA's
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (11, 0))
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device: False)
    assert selector.this_card().sm < 89
    selector.measured.clear()
