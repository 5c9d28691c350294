"""The selector in a running ComfyUI: it chooses once, and the loader after it is not run again."""

import pytest
from support.safetensors_header import write_hollow


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

    server = start_comfy()
    # the published name's pattern, so that nothing is fetched
    folder = server.base_directory / "models/diffusion_models"
    write_steadydancer_gguf(folder / "Wan21_I2V_SteadyDancer_fp16-Q6_K_fix_5d_tensor.gguf", "Q6_K")
    with server.events() as events:
        first = server.run(prompt("first"))
    said = dict(events.texts)  # the last of each node
    assert said["select"].startswith("steadydancer/Q6_K: 13.7 GB, all of it on the card")
    assert said["loader"] == "Model: steadydancer/Q6_K"
    assert first.error is None, first.error
    assert first.outputs["used"]["text"][0] == "steadydancer/Q6_K"
    assert "Q6_K: 13.7 GB, all of it on the card" in first.outputs["reason"]["text"][0]
    second = server.run(prompt("second"))
    assert {"select", "loader"} <= set(second.cached)
    auto = {**prompt("auto"), "plan": planner(), "shown": node("PreviewAny", source=["plan", 3])}
    auto["loader"]["inputs"] = {"variant": "auto", "step_distill": False, "plan": ["plan", 0]}
    planned = server.run(auto)
    assert planned.error is None, planned.error
    assert planned.outputs["used"]["text"][0] == "steadydancer/Q6_K", "auto is what the plan is for"
    third = server.run(prompt("third", preference="smallest", budget=18.0))
    assert "select" not in third.cached


def card(gb, sm):
    from steadydancer.machine import gpus

    return gpus.as_like("this GPU", int(gb * 1e9), int(gb * 1e9), sm)


@pytest.fixture
def machine(own_models, monkeypatch):
    """machine(gb, sm) makes up the card: this machine has none. No model is there."""
    from steadydancer.planning.solve import Host
    from steadydancer.services import this_machine

    monkeypatch.setattr(this_machine, "host", Host)
    return lambda gb, sm: monkeypatch.setattr(this_machine, "present_card", lambda: card(gb, sm))


def test_auto_of_the_loader_follows_card_and_files(own_models, machine):
    from steadydancer.nodes import loaders

    def auto(gb, sm):
        machine(gb, sm)
        return loaders.SteadyDancerLoader.fingerprint_inputs("auto", False)[0]

    assert [auto(24.5, 89), auto(16.0, 86), auto(80.0, 80)] == [
        "steadydancer/Q8_0", "steadydancer/Q6_K", "steadydancer/fp16",
    ]  # fmt: skip
    folder = own_models / "diffusion_models"
    folder.mkdir(parents=True)
    fp8 = folder / "Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors"
    write_hollow(fp8, {"blocks.0.ffn.0.weight": ("F16", (8,), 16)})
    assert {auto(24.5, 89), auto(24.5, 86), auto(12.0, 86), auto(80.0, 80)} == {"steadydancer/fp8"}


def test_auto_with_a_plan_is_the_plans_business(machine):
    """ComfyUI gives None for what is linked: on another card the choice is another, and nothing is loaded again."""
    from steadydancer.nodes import loaders

    found = []
    for gb, sm in ((24.5, 89), (16.0, 86)):
        machine(gb, sm)
        found.append([loaders.SteadyDancerLoader.fingerprint_inputs("auto", False, *plan) for plan in ((None,), ())])
    (linked, alone), (linked_on_another, alone_on_another) = found
    assert linked == linked_on_another and alone != alone_on_another


def test_nothing_is_chosen_where_the_mode_forbids_it(machine, monkeypatch):
    from steadydancer.nodes import loaders, selector

    machine(8.0, 89)
    monkeypatch.setenv("GPU_MEMORY_MODE", "full")
    for found in (
        loaders.SteadyDancerLoader.fingerprint_inputs("auto", False),
        selector.SteadyDancerVariantSelector.fingerprint_inputs(
            family="steadydancer", budget=0.0, preference="auto", generation="auto"
        ),
    ):
        assert "Nothing of steadydancer fits whole into 8.0 GB" in found[0]


class Device:
    """Stands for an NVIDIA card as torch and ComfyUI describe it."""

    def __init__(self, monkeypatch, name, total, free, capability, fp8):
        import comfy.model_management
        import torch

        self.free, self.capability, self.fp8 = free, capability, fp8
        properties = type("Properties", (), {"total_memory": total})
        monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("cuda", 0))
        monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device: self.fp8)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.free, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: self.capability)


@pytest.mark.parametrize("native", [True, False])
def test_the_planner_knows_whether_fp8_is_multiplied_natively(comfyui, monkeypatch, native):
    from steadydancer.machine import gpus
    from steadydancer.services import this_machine

    like = gpus.card("RTX 4090")
    Device(monkeypatch, "NVIDIA GeForce RTX 4090", like.total, like.free, (8, 9), native)
    found = this_machine.present_card()
    assert (found.fp8 > 0) is native and found.bf16 == like.bf16 and (found.sm == 89) is native


def test_the_card_is_measured_steadily(comfyui, monkeypatch):
    """A GB more or less in other programs, or in PyTorch's own libraries, makes no other card."""
    from steadydancer.services import this_machine

    this_machine.measured.clear()
    gpu = Device(monkeypatch, "NVIDIA GeForce RTX 4090", 25_700_000_000, 24_600_000_000, (8, 9), True)
    free = lambda: this_machine.present_card().free / 1e9  # noqa: E731
    assert (free(), this_machine.present_card().sm) == (24.5, 89)
    gpu.free = 23_900_000_000
    assert free() == 24.5
    gpu.free = 20_000_000_000
    assert free() == 20.0
    # an AMD card: its (11, 0) is no compute capability of NVIDIA's
    gpu.capability, gpu.fp8 = (11, 0), False
    assert this_machine.present_card().sm < 89
    this_machine.measured.clear()
