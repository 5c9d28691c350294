"""The shipped API prompts through a real server, with tiny weights under the shipped file names."""

import json

import pytest
from steadydancer.formats.safetensors_file import safetensors_header
from steadydancer.pose import interchange
from steadydancer.tools import draw_dancer
from support import ROOT
from support.s3_server import StrictS3
from support.video import probe
from support.workflows import (
    EXAMPLES,
    LOADERS,
    NO_RENDER,
    PROMPTS,
    TINY_VALUES,
    load,
    model_files,
    tiny_key,
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
                changed.append((tiny_key(node), name))
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


@pytest.mark.parametrize("file", [f for f in PROMPTS if f.stem not in NO_RENDER], ids=lambda file: file.stem)
def test_prompt_renders(comfy_server, file):
    """Every video that the prompt saves has the size, length and rate that it asks for."""
    shipped = load(file)
    comfy_server.provide_models(*model_files(shipped))
    prompt = with_tiny_values(with_tiny_text_encoder(shipped))
    result = comfy_server.succeed(prompt, timeout=600)
    videos = [probe(path) for path in result.files if path.suffix == ".mp4"]
    assert len(videos) == sum(node["class_type"] == "SaveVideo" for node in prompt.values())
    for video in videos:
        assert (video.width, video.height) == (64, 96)
        rate = value(shipped, "CreateVideo", "fps")
        assert video.rate == (16 if isinstance(rate, list) else rate)  # a link comes from Driving Video
        assert video.frames == 17
        assert video.pictures.std() > 2, "a flat picture"
    assert "unet unexpected" not in comfy_server.log() and "unet missing" not in comfy_server.log()


def test_what_renders_nothing_has_a_test_of_its_own():
    assert (
        set(NO_RENDER)
        == {"dwpose_extract", "save_to_r2", "dance_report", "download_models", "convert_model"}
        < {file.stem for file in PROMPTS}
    )


def test_dwpose_extract_runs(comfy_server):
    shipped = shipped_prompt("dwpose_extract")
    comfy_server.provide_models(*model_files(shipped))
    (path,) = (
        path for path in comfy_server.succeed(with_tiny_values(shipped), timeout=600).files if path.suffix == ".mp4"
    )
    video = probe(path)
    assert (video.frames, video.rate, video.width, video.height) == (17, 16, 576, 1024)


def test_dance_report_runs(comfy_server):
    """The poses asked for come from a file: those that random nets read lie beside the picture, which is refused."""
    shipped = shipped_prompt("dance_report")
    comfy_server.provide_models(*model_files(shipped))
    prompt = with_tiny_values(shipped)
    (report,) = (node for node in prompt.values() if node["class_type"] == "SteadyDancerDanceReport")
    assert "There is nobody in the poses" in comfy_server.run(prompt, timeout=600).error
    text = json.dumps(interchange.write(draw_dancer.dance(17)))
    (comfy_server.base_directory / "input" / "dance_report.json").write_text(text, "utf-8")
    prompt["poses"] = {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "dance_report.json"}}
    report["inputs"]["keypoints"] = ["poses", 0]
    (path,) = (path for path in comfy_server.succeed(prompt, timeout=600).files if path.suffix == ".mp4")
    video = probe(path)
    assert (video.frames, video.rate, video.width, video.height) == (17, 16, 3 * 288, 512) and video.has_audio


def test_save_to_r2_runs(start_comfy, tmp_path):
    with StrictS3(tmp_path / "s3").running() as s3:
        server = start_comfy(variables=s3.profile)
        files = {path.suffix: path.read_bytes() for path in server.succeed(shipped_prompt("save_to_r2")).files}
        server.stop()
    saved = {key: s3.body(key) for key in s3.objects}
    assert saved["newest.mp4"] == files[".mp4"]
    assert sorted(saved.values()) == sorted([files[".mp4"], files[".mp4"], files[".png"]])


def test_download_models_runs(comfy_server):
    """Every file that it names is here, which is all that a second run of it finds; only their publisher has the others."""
    shipped = shipped_prompt("download_models")
    names = model_files(shipped)
    comfy_server.provide_models(*names)
    (shown,) = comfy_server.succeed(shipped).outputs.values()
    assert f"in {len(names)} files, all here and checked" in shown["text"][0]


def test_convert_model_runs(comfy_server):
    shipped = shipped_prompt("convert_model")
    (name,) = model_files(shipped)
    comfy_server.provide_models(name)
    source = comfy_server.base_directory / "models" / name
    made = source.with_name("Wan21_I2V_SteadyDancer_int8_convrot.safetensors")
    made.unlink(missing_ok=True)  # of a test before this one
    (shown,) = comfy_server.succeed(shipped).outputs.values()
    assert str(made) in shown["text"][0] and "tensors changed, the most by" in shown["text"][0]
    assert set(safetensors_header(made)) > set(safetensors_header(source))


def shipped_prompt(name: str) -> dict:
    return load(ROOT / "example_workflows" / "api" / f"{name}.json")


def value(prompt: dict, class_type: str, name: str, default=None):
    """The value of the first node of that class."""
    return next((node["inputs"][name] for node in prompt.values() if node["class_type"] == class_type), default)
