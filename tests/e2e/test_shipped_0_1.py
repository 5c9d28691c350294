"""The API prompts as version 0.1 shipped them: they still validate, and the ones with a choice in them still run."""

import json

import pytest
from support import TESTS
from support.workflows import model_files, with_tiny_text_encoder, with_tiny_values

PROMPTS = sorted((TESTS / "shipped_0_1").glob("*.json"))


@pytest.fixture(scope="module")
def infos(comfy_server):
    return comfy_server.object_info()


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_every_input_is_as_the_schema_says(infos, path):
    """Each node exists, each input is one of its, each required one is there, each value of a combo is offered."""
    prompt = json.loads(path.read_text("utf-8"))
    ours = [node for node in prompt.values() if node["class_type"].startswith("SteadyDancer")]
    assert ours
    for node in ours:
        described = infos[node["class_type"]]["input"]
        known = {**described.get("required", {}), **described.get("optional", {})}
        assert node["inputs"].keys() <= known.keys(), node
        assert described.get("required", {}).keys() <= node["inputs"].keys(), node
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                assert_offered(known[name], value)
                continue
            source, index = value
            kinds = infos[prompt[source]["class_type"]]["output"]
            assert index < len(kinds), (node, name)


def assert_offered(described, value) -> None:
    kind, options = described[0], (described[1:] or [{}])[0]
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None and not options.get("image_upload") and not options.get("video_upload"):
        assert value in choices, (value, choices)
    for bound, holds in (("min", lambda limit: value >= limit), ("max", lambda limit: value <= limit)):
        assert bound not in options or holds(options[bound])


@pytest.mark.parametrize("name", ["steadydancer_auto", "steadydancer_planned"])
def test_those_with_a_choice_still_run(comfy_server, name):
    shipped = json.loads((TESTS / "shipped_0_1" / f"{name}.json").read_text("utf-8"))
    comfy_server.provide_models(*model_files(shipped))
    result = comfy_server.succeed(with_tiny_values(with_tiny_text_encoder(shipped)), timeout=600)
    assert ".mp4" in [path.suffix for path in result.files]
