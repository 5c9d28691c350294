"""The route for container checks and load balancers: what it says of an idle, a busy and a broken server."""

import json
import shutil
from types import SimpleNamespace

import pytest
from support import ROOT


def test_an_idle_server_is_healthy_and_tells_no_path(comfy_server):
    found = comfy_server.get("/steadydancer/health")
    assert found["healthy"] and found["device_usable"] and found["disk_left_gb"] > 0
    assert (found["running"], found["waiting"], found["sampling"], found["r2_waiting"]) == (0, 0, None, None)
    assert str(comfy_server.base_directory) not in json.dumps(found)


def test_a_busy_server_says_its_step_and_a_failed_prompt_its_kind(comfy_server):
    from support.workflows import load, model_files, with_tiny_text_encoder, with_tiny_values

    shipped = load(ROOT / "example_workflows" / "api" / "steadydancer_basic.json")
    comfy_server.provide_models(*model_files(shipped))
    prompt = with_tiny_values(with_tiny_text_encoder(shipped))
    (schedule,) = (node for node in prompt.values() if node["class_type"] == "SteadyDancerSchedule")
    schedule["inputs"]["steps"] = 40
    with comfy_server.events() as events:
        running = comfy_server.queue(prompt)
        events.wait_for("progress", lambda data: data["value"] == 1, timeout=300)
        found = comfy_server.get("/steadydancer/health")
        comfy_server.interrupt(running)
        comfy_server.wait(running)
    assert found["running"] == 1 and found["sampling"]["of"] == 40
    assert found["sampling"]["step"] >= 2 and found["sampling"]["seconds_left"] > 0
    bad = {"1": {"class_type": "SteadyDancerR2Upload", "inputs": {
        "file": "none.mp4", "profile": "auto", "key": "{name}", "overwrite": False, "link_minutes": 0}}}  # fmt: skip
    assert comfy_server.run(bad).error
    found = comfy_server.get("/steadydancer/health")
    assert found["last_error"] == "ValueError" and found["healthy"], "a bad prompt is no bad machine"


@pytest.mark.parametrize("fault", ["disk", "device"])
def test_where_a_new_prompt_would_fail_it_is_not_healthy(comfyui, monkeypatch, fault):
    import comfy.model_management
    import torch
    from steadydancer.services import health

    def refused(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert health.state()["healthy"]
    if fault == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**8))
    else:
        monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("cuda", 0))
        monkeypatch.setattr(torch.cuda, "mem_get_info", refused)
    assert not health.state()["healthy"]
