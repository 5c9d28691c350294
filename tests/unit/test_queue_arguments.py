"""How `cli.py queue` turns a file, --set and the environment into the prompt that it posts."""

import json

import pytest
from steadydancer import cli
from steadydancer.commands import prompt as api_prompt
from support.workflows import PROMPTS, load


def test_a_long_seed_keeps_its_digits(monkeypatch):
    graph = prompt()
    monkeypatch.setenv("STEADYDANCER_SEED", "1234567890123456789")
    api_prompt.fill_from_environment(graph)
    assert graph["2"]["inputs"]["noise_seed"] == 1234567890123456789
    for text in ("inf", "nan", "1e999", "seven"):
        monkeypatch.setenv("STEADYDANCER_SEED", text)
        with pytest.raises(ValueError, match="not a number"):
            api_prompt.fill_from_environment(graph)


def prompt() -> dict:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "1. Picture"}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}, "_meta": {"title": "Noise"}},
        "3": {
            "class_type": "SteadyDancerGuider",
            "inputs": {"cfg": 5.0, "pose_cfg": 1, "end": 0.4, "model": ["9", 0], "video.codec": "h264", "on": True},
        },
        "4": {"class_type": "VAEDecode", "inputs": {}, "_meta": {"title": "Twin"}},
        "5": {"class_type": "VAEDecode", "inputs": {}, "_meta": {"title": "Twin"}},
        "6": {"class_type": "SteadyDancerSchedule", "inputs": {"steps": 40, "shift": 5.0}},
    }


@pytest.mark.parametrize(
    ("assignment", "node", "name", "value"),
    [
        ("1.image=b=c.png", "1", "image", "b=c.png"),
        ("1. Picture.image=42", "1", "image", "42"),
        ("Noise.noise_seed=123456789012", "2", "noise_seed", 123456789012),
        ("3.cfg=4.5", "3", "cfg", 4.5),
        ("3.video.codec=vp9", "3", "video.codec", "vp9"),
        ("SteadyDancerGuider.on=false", "3", "on", False),
    ],
)
def test_set(assignment, node, name, value):
    changed = prompt()
    api_prompt.set_input(changed, assignment)
    assert changed[node]["inputs"][name] == value
    changed[node]["inputs"][name] = prompt()[node]["inputs"][name]
    assert changed == prompt(), "nothing else changes"


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("3.cfg", "NODE.INPUT=VALUE"),
        ("cfg=3", "NODE.INPUT=VALUE"),
        ("3.steps=3", "It has: cfg, pose_cfg"),
        ("Nobody.steps=3", "1 (1. Picture)"),
        ("Twin.x=3", "4, 5"),
        ("3.cfg=much", "not a number"),
        ("3.cfg=true", "not a number"),
        ("3.on=1", "not true or false"),
        ("3.model=x", "comes from node 9"),
    ],
)
def test_set_says_what_is_wrong(assignment, sentence):
    with pytest.raises(api_prompt.UsageError, match="--set") as raised:
        api_prompt.set_input(prompt(), assignment)
    assert sentence in str(raised.value)


def test_environment_fills_the_numbers_it_names(monkeypatch):
    for name, value in {"GUIDE_SCALE": "4", "CONDITION_GUIDE": "0.5", "END_CFG": "0.6", "SEED": "99"}.items():
        monkeypatch.setenv(f"STEADYDANCER_{name}", value)
    monkeypatch.setenv("TURBO_STEPS", "4")
    filled = prompt()
    api_prompt.fill_from_environment(filled)
    assert filled["3"]["inputs"] | {"cfg": 4, "pose_cfg": 0.5, "end": 0.6} == filled["3"]["inputs"]
    assert filled["2"]["inputs"]["noise_seed"] == 99 and isinstance(filled["2"]["inputs"]["noise_seed"], int)
    assert filled["6"]["inputs"]["steps"] == 40, "the graph is not one of few steps"


def test_turbo_numbers_win_in_a_graph_of_few_steps(monkeypatch):
    monkeypatch.setenv("STEADYDANCER_GUIDE_SCALE", "5")
    monkeypatch.setenv("TURBO_GUIDE_SCALE", "1")
    monkeypatch.setenv("TURBO_STEPS", "4")
    filled = prompt()
    filled["7"] = {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "lightx2v_I2V_rank64.safetensors"}}
    api_prompt.fill_from_environment(filled)
    assert filled["3"]["inputs"]["cfg"] == 1
    assert filled["6"]["inputs"]["steps"] == 4


def test_fast_and_best_of_the_main_template_have_numbers_of_their_own(monkeypatch):
    """They reach the nodes through switches: each pair of variables its own side."""
    for name, value in {"STEADYDANCER_GUIDE_SCALE": "4", "TURBO_GUIDE_SCALE": "1.5", "TURBO_STEPS": "6"}.items():
        monkeypatch.setenv(name, value)
    (file,) = (file for file in PROMPTS if file.stem == "steadydancer_from_video")
    filled = load(file)
    api_prompt.fill_from_environment(filled)
    values = {api_prompt.title(node): node["inputs"].get("value") for node in filled.values()}
    assert [values[name] for name in ("Fast: steps", "Best: steps", "Fast: text guidance", "Best: text guidance")] == [
        6, 40, 1.5, 4,
    ]  # fmt: skip
    assert values["Fast"] is True
    api_prompt.set_input(filled, "Fast.value=false")
    assert not api_prompt.has_few_steps(filled)


def test_unset_environment_changes_nothing():
    filled = prompt()
    api_prompt.fill_from_environment(filled)
    assert filled == prompt()


def test_wrong_usage_is_exit_code_2(tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.json"
    page.write_text(json.dumps({"nodes": [], "links": []}))
    assert cli.main(["queue", str(page)]) == 2
    assert "Export (API)" in capsys.readouterr().err
    assert cli.main(["queue", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(prompt()))
    monkeypatch.setenv("STEADYDANCER_SEED", "soon")
    assert cli.main(["queue", str(good)]) == 2
    assert "STEADYDANCER_SEED" in capsys.readouterr().err


def test_no_server_is_a_sentence(tmp_path, capsys):
    good = tmp_path / "good.json"
    good.write_text(json.dumps(prompt()))
    assert cli.main(["queue", str(good), "--server", "http://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert "No ComfyUI answers at http://127.0.0.1:9" in error and "Traceback" not in error


def seeds(prompt: dict) -> set[int]:
    """The seeds of the prompt's samplers."""
    inputs = {"RandomNoise": "noise_seed", "KSampler": "seed"}
    return {n["inputs"][inputs[n["class_type"]]] for n in prompt.values() if n["class_type"] in inputs}


SEEDED = [file for file in PROMPTS if seeds(load(file))]


@pytest.mark.parametrize("file", SEEDED, ids=lambda file: file.stem)
def test_shipped_prompts_take_the_environments_numbers(file, monkeypatch):
    """The variables of a pod name inputs that exist in what we ship."""
    monkeypatch.setenv("STEADYDANCER_SEED", "424242")
    filled = load(file)
    api_prompt.fill_from_environment(filled)
    assert seeds(filled) == {424242}
