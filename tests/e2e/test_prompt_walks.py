"""How often a prompt that is really queued lists model folders: planner, loader, its encoders and what they fetch."""

import os
import time

import pytest
from support import tiny


@pytest.fixture(scope="module")
def server(start_comfy, tmp_path_factory):
    notes = tmp_path_factory.mktemp("walks") / "listings.txt"
    server = start_comfy(variables={"HF_HUB_OFFLINE": "1", "STEADYDANCER_TEST_LISTINGS": str(notes)})
    models = server.base_directory / "models"  # in subfolders: what lies where it was fetched to needs no walk
    tiny.write_steadydancer(models / "diffusion_models" / "mine" / "Wan21_I2V_SteadyDancer_fp16.safetensors", "fp16")
    tiny.write_lora(models / "loras" / "mine" / "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors")
    tiny.write_vae(models / "vae" / "mine" / "wan_2.1_vae.safetensors")
    tiny.write_t5_base(models / "text_encoders" / "mine" / "umt5_xxl_fp16.safetensors")
    tiny.provide(models, "clip_vision/clip_vision_h.safetensors")
    then = time.time() - 60  # settled: a folder that has just changed may be listed again
    for folder in (models, *models.rglob("*")):
        if folder.is_dir():
            os.utime(folder, (then, then))
    server.notes = notes
    return server


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def prompt(see: int) -> dict:
    """Plan, load with the LoRA, and use every part of it; another `see` uses the parts anew."""
    return {
        "planner": node(
            "SteadyDancerVRAMPlanner", variant="auto", width=64, height=64, frames=17, steps=2, guidance="text",
            step_distill=True, lora="none", gpu="this one", reserve=0.0,
        ),
        "loader": node("SteadyDancerLoader", variant=["planner", 1], step_distill=True, plan=["planner", 0]),
        "alone": node("SteadyDancerLoader", variant="auto", step_distill=False),
        "text": node("CLIPTextEncode", clip=["loader", 1], text=f"a woman dances {see}"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=see),
        "see": node("CLIPVisionEncode", clip_vision=["loader", 2], image=["picture", 0], crop="none"),
        "latent": node("VAEEncode", pixels=["picture", 0], vae=["loader", 3]),
        "show text": node("PreviewAny", source=["text", 0]),
        "show see": node("PreviewAny", source=["see", 0]),
        "show latent": node("PreviewAny", source=["latent", 0]),
        "show model": node("PreviewAny", source=["alone", 4]),
    }  # fmt: skip


def listed(server) -> list[tuple[str, str]]:
    """(module, folder below models) of each listing since the last call."""
    lines = server.notes.read_text("utf-8").splitlines() if server.notes.exists() else []
    server.notes.unlink(missing_ok=True)
    return [tuple(line.split("\t")) for line in lines]


def test_a_queued_prompt_lists_each_folder_once_and_the_next_one_none(server):
    listed(server)
    done = server.run(prompt(1))
    assert done.error is None, done.error
    found = listed(server)
    ours = [folder for module, folder in found if module != "folder_paths"]
    assert {"diffusion_models", "diffusion_models/mine", "loras", "vae", "text_encoders"} <= set(ours), (
        "the count counts"
    )
    assert len(ours) == len(set(ours)), "once each"
    assert {module.rpartition("steadydancer")[2] for module, _ in found} == {
        "folder_paths",
        ".loaders.download.listing",
    }
    server.free()  # looked at between two prompts: before the next one, or on a busy machine after it
    done = server.run(prompt(2))
    if "loader" in done.cached:
        done = server.run(prompt(3))
    assert done.error is None and not {"loader", "alone"} & set(done.cached)
    assert listed(server) == []
