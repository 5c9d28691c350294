"""extra_model_paths.yaml read by cli.py as ComfyUI reads it, with PyYAML and without."""

import builtins
from pathlib import Path

import pytest
from steadydancer.catalog.catalog import catalogue
from steadydancer.loaders.download.extra_paths import document, extra_folders, plain_document
from steadydancer.loaders.download.places import Places

EXAMPLE = """
# config for comfyui
comfyui:
     base_path: {base}   # where everything is
     is_default: true
     checkpoints: models/checkpoints/
     text_encoders: |
          models/text_encoders/
          models/clip/

     'vae': "models/VAE #1"
     # clip_vision: models/clip_vision/

a1111:
    base_path: ~/webui
    unet: models/Stable-diffusion
    loras: |
         models/Lora
         ${{EXTRA_LORAS}}/more
empty:
other:
    clip: /absolute/clip
    diffusion_models: beside
"""


@pytest.fixture(params=["PyYAML", "bare Python"])
def reader(request, monkeypatch):
    if request.param == "bare Python":
        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name == "yaml":
                raise ModuleNotFoundError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
    return request.param


def test_the_shapes_that_people_write(tmp_path, reader, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BASE", str(tmp_path / "big disk"))
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(EXAMPLE.format(base="$BASE"), encoding="utf-8")
    base = tmp_path / "big disk"
    assert extra_folders(path) == [
        ("checkpoints", base / "models/checkpoints", True),
        ("text_encoders", base / "models/text_encoders", True),
        ("text_encoders", base / "models/clip", True),
        ("vae", base / "models/VAE #1", True),
        ("diffusion_models", tmp_path / "home/webui/models/Stable-diffusion", False),
        ("loras", tmp_path / "home/webui/models/Lora", False),
        ("loras", tmp_path / "home/webui/${EXTRA_LORAS}/more", False),
        ("text_encoders", Path("/absolute/clip"), False),
        ("diffusion_models", tmp_path / "beside", False),
    ]


def test_both_readers_agree_on_what_comfyui_ships(tmp_path):
    yaml = pytest.importorskip("yaml")
    lines = [line for line in EXAMPLE.format(base="/data").splitlines()]
    for text in ("\n".join(lines), "\r\n".join(lines), "", "# nothing\n", "---\na:\n  base_path: /x\n"):
        assert plain_document(text, tmp_path) == {k: v or {} for k, v in (yaml.safe_load(text) or {}).items()}, text


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: {vae: x}", 1), ("a:\n  vae:\n    - x\n    - y", 3), ("a:\n  vae: [x, y]", 2), ("a:\n  b: >\n    x", 2),
     ("vae: x", 1), ("  vae: x", 1), ("a:\n  vae: x\n   b: y", 3), ("a:\n\tvae: x", 2), ("a:\n  nonsense", 2)],
)  # fmt: skip
def test_other_yaml_needs_pyyaml_and_says_so(tmp_path, text, line):
    with pytest.raises(ValueError, match=f"line {line}, is written in a way that needs PyYAML"):
        plain_document(text, tmp_path / "extra_model_paths.yaml")


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "a:\n  b: c\n d: e", "a: text"])
def test_a_wrong_file_is_named(tmp_path, text):
    pytest.importorskip("yaml")
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="extra_model_paths.yaml is (no valid YAML|not what ComfyUI expects)"):
        extra_folders(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="extra_model_paths.yaml cannot be read: it is not UTF-8 text"):
        extra_folders(path)


def test_document_needs_no_pyyaml(tmp_path, reader):
    assert document("a:\n  vae: x\n", tmp_path) == {"a": {"vae": "x"}}


def test_the_order_of_folders_is_comfyuis(tmp_path):
    shared, more = tmp_path / "shared", tmp_path / "more"
    places = Places(tmp_path / "models", [("diffusion_models", shared, True), ("diffusion_models", more, False)])
    models = tmp_path / "models"
    assert places.folders("diffusion_models") == [shared, models / "diffusion_models", more, models / "unet"]
    assert places.folders("text_encoders") == [models / "text_encoders", models / "clip"]
    assert places.folders("vae") == [models / "vae"]
    moved = Places(models, [("vae", shared, False), ("vae", shared, True), ("vae", models / "vae", False)])
    assert moved.folders("vae") == [shared, models / "vae"]


def test_a_whole_file_is_found_before_a_broken_one(tmp_path):
    from support.safetensors_header import write_hollow

    file = catalogue().files["wan-2.1-vae"]
    first, second = tmp_path / "models" / "vae", tmp_path / "shared"
    for folder in (first, second):
        folder.mkdir(parents=True)
    (first / file.name).symlink_to(tmp_path / "gone")
    places = Places(tmp_path / "models", [("vae", second, False)])
    assert places.find(file) == first / file.name, "a broken one is better than none: it is told"
    write_hollow(second / file.name, {"w": ("U8", (100,), 100)})
    assert places.find(file) == second / file.name
