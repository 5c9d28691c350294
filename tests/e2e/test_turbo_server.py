"""TurboDiffusion's templates on the server, where something goes wrong: cancel in every step, and files of other models."""

import pytest
from support import ROOT, tiny
from support.workflows import load, model_files, with_tiny_text_encoder, with_tiny_values

API = ROOT / "example_workflows" / "api"


def prompt(comfy_server, name: str, **changes) -> dict:
    """A shipped prompt at a size for CPUs; `changes` are {class type: inputs}."""
    shipped = load(API / f"{name}.json")
    comfy_server.provide_models(*model_files(shipped))
    graph = with_tiny_values(with_tiny_text_encoder(shipped))
    for node in graph.values():
        node["inputs"] |= changes.get(node["class_type"], {})
    return graph


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("name", ["turbo_t2v", "turbo_i2v"])
def test_cancel_after_each_step(comfy_server, name, step):
    big = {"width": 512, "height": 512}  # steps of about a second
    graph = prompt(
        comfy_server,
        name,
        EmptyHunyuanLatentVideo=big,
        SteadyDancerFitImage=big,
        SteadyDancerTurboSampler={"seed": 500 + step},
    )
    with comfy_server.events() as events:
        prompt_id = comfy_server.queue(graph)
        events.wait_for("progress", lambda data: data["max"] == 4 and data["value"] == step, timeout=300)
        comfy_server.interrupt(prompt_id)
        result = comfy_server.wait(prompt_id, timeout=60)
    assert result.interrupted and not result.files
    assert events.named("progress")[-1]["value"] == step, "it looks within a step, which may take a minute"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("wan2.1_t2v_plain.safetensors", "is a Wan model without TurboDiffusion's linear attention"),
        ("my_steadydancer_fp16.safetensors", "is a SteadyDancer model"),
        ("mine_TurboWan_A14B-low.pth", "is the low-noise expert"),
    ],
)
def test_files_of_other_models_are_refused_by_name(comfy_server, file, sentence):
    tiny.provide(comfy_server.base_directory / "models", f"diffusion_models/{file}")
    result = comfy_server.run(prompt(comfy_server, "turbo_t2v", SteadyDancerTurboLoader={"model": file}))
    assert file in result.error and sentence in result.error
