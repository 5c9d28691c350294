"""The shipped API prompts through a real server, with tiny weights under the shipped file names."""

import pytest
from support import ROOT
from support.video import probe
from support.workflows import (
    ELSEWHERE,
    EXAMPLES,
    LOADERS,
    PROMPTS,
    TINY_VALUES,
    load,
    model_files,
    with_tiny_text_encoder,
    with_tiny_values,
)

by_name = pytest.mark.parametrize("file", PROMPTS, ids=lambda file: file.stem)


def test_every_workflow_has_its_api_twin():
    assert EXAMPLES and [file.name for file in EXAMPLES] == [file.name for file in PROMPTS]


@by_name
def test_only_the_text_encoder_is_replaced(file):
    """What the tests run differs from what is shipped by one node, and by sizes and counts that are listed.

    The node is core's CLIPLoader, or the CLIP output of a loader of ours.
    """
    shipped, run = load(file), with_tiny_values(with_tiny_text_encoder(load(file)))
    added = [run[key]["class_type"] for key in run.keys() - shipped.keys()]
    changed = []
    for key, node in shipped.items():
        assert node["inputs"].keys() == run[key]["inputs"].keys()
        if node["class_type"] != run[key]["class_type"]:
            assert (node["class_type"], run[key]["class_type"]) == ("CLIPLoader", "TinyUMT5Loader")
            added.append("TinyUMT5Loader")
        for name, old in node["inputs"].items():
            new = run[key]["inputs"][name]
            if isinstance(old, list) and new != old:
                assert LOADERS[shipped[old[0]]["class_type"]][1] == old[1] and new == [f"{old[0]}-clip", 0]
            elif new != old:
                changed.append((node["class_type"], name))
    assert added == (["TinyUMT5Loader"] if any("Sampler" in n["class_type"] for n in shipped.values()) else [])
    assert set(changed) <= {(kind, name) for kind, names in TINY_VALUES.items() for name in names}


@by_name
def test_every_input_is_shipped(file):
    """The package puts example_workflows/inputs into ComfyUI's input folder, so a template runs at the first press."""
    named = {
        value
        for node in load(file).values()
        for name, value in node["inputs"].items()
        if node["class_type"] in ("LoadImage", "LoadVideo") and name in ("image", "file")
    }
    assert named <= {path.name for path in (ROOT / "example_workflows" / "inputs").iterdir()}


@pytest.mark.parametrize("file", [f for f in PROMPTS if f.stem not in ELSEWHERE], ids=lambda file: file.stem)
def test_prompt_runs(comfy, file):
    """Every video that the prompt saves has the size, length and rate that it asks for."""
    shipped = load(file)
    comfy.provide_models(*model_files(shipped))
    prompt = with_tiny_values(with_tiny_text_encoder(shipped))
    result = comfy.succeed(prompt, timeout=600)
    videos = [probe(path) for path in result.files if path.suffix == ".mp4"]
    assert len(videos) == sum(node["class_type"] == "SaveVideo" for node in prompt.values())
    for video in videos:
        assert (video.width, video.height) == (64, 96)
        rate = value(shipped, "CreateVideo", "fps")
        assert video.rate == (16 if isinstance(rate, list) else rate)  # a link comes from Driving Video
        lengths = (value(prompt, kind, "length") for kind in ("SteadyDancerToVideo", "EmptyHunyuanLatentVideo"))
        assert video.frames == next(filter(None, lengths), value(prompt, "WanImageToVideo", "length"))
        assert video.pictures.std() > 2, "a flat picture"
    assert "unet unexpected" not in comfy.log() and "unet missing" not in comfy.log()


@pytest.mark.parametrize(("name", "test"), ELSEWHERE.items())
def test_what_is_run_elsewhere_is_run_there(name, test):
    prompt = load(ROOT / "example_workflows" / "api" / f"{name}.json")
    ours = {node["class_type"] for node in prompt.values() if node["class_type"].startswith("SteadyDancer")}
    text = (ROOT / test).read_text("utf-8")
    assert name in text or ours and all(node in text for node in ours)


def value(prompt: dict, class_type: str, name: str, default=None):
    """The value of the first node of that class."""
    return next((node["inputs"][name] for node in prompt.values() if node["class_type"] == class_type), default)
