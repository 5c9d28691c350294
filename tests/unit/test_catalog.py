"""The catalogue: every shipped entry, and what it says to somebody who edits it wrongly."""

import json
import re

import pytest
import support
from steadydancer.catalog import catalog
from steadydancer.catalog.catalog import DATA, catalogue, read

FAMILIES = sorted((DATA / "families").glob("*.toml"))
GOOD = """id = "toy"
title = "Toy"
licence = "MIT"

[files.toy]
role = "vae"
folder = "vae"
name = "toy.safetensors"
format = "safetensors"
gb = 1
confirmed = "here"
sources = [{ hub = "a/b", path = "toy.safetensors" }]

[variants.one]
title = "One"
vae = ["toy"]
"""


def read_text(tmp_path, text: str, profiles: str = ""):
    families = tmp_path / "families"
    families.mkdir(exist_ok=True)
    (families / "toy.toml").write_text(text)
    (tmp_path / "profiles.toml").write_text(profiles)
    return read(families, tmp_path / "profiles.toml")


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_every_entry_is_complete(path):
    family = catalog.Document(path).data["id"]
    files = [file for file in catalogue().files.values() if file.family == family]
    assert files
    for file in files:
        assert file.role in catalog.ROLES and file.format in catalog.FORMATS
        assert file.licence and file.confirmed and file.folder
        assert file.size > 0
        assert file.patterns
        for source in file.sources:
            if source.kind in ("hub", "pattern", "snapshot"):
                assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.where)
            if source.kind == "hub" and file.name:
                assert source.path.endswith(file.name.rsplit("/", 1)[-1])
            assert "{each}" not in repr(source)
        if file.role == "bundle":
            assert file.format == "folder" and file.sources[0].kind == "snapshot"


def test_every_family_is_loadable_or_download_only():
    loaders = {
        "SteadyDancerLoader",
        "SteadyDancerCatalogLoader",
        "SteadyDancerTurboLoader",
        "SteadyDancerPoseEstimator",
    }
    for family in catalogue().families.values():
        assert family.loader in loaders | {""}
        variants = [variant for variant in catalogue().variants.values() if variant.family == family.id]
        if any(variant.text_encoder for variant in variants) and family.loader:
            assert family.clip_type
    for variant in catalogue().variants_for("SteadyDancerCatalogLoader"):
        assert variant.diffusion and variant.text_encoder and variant.vae


def test_the_named_families_and_toggles_are_there():
    wanted = {
        "steadydancer/fp8", "steadydancer/fp16", "steadydancer/official", "steadydancer/Q2_K", "steadydancer/Q8_0",
        "turbowan2.1-t2v-1.3b-480p/int8", "turbowan2.2-i2v-a14b-720p/bf16", "wan2.1/i2v-720p", "wan2.2/i2v-high",
        "vace/14B", "wan2.2/fun-inp-low", "scail/preview", "z-image/turbo", "illustrious/realism",
        "controlnet/normalbae", "qwen-image-edit-2511/gguf-Q8_0", "vibevoice/Large-Q8", "genfocus/snapshot",
        "mvinverse/snapshot", "flashportrait/snapshot", "storymem/snapshot", "infcam/snapshot", "dwpose/onnx",
    }  # fmt: skip
    assert wanted <= set(catalogue().variants)
    toggles = {name for profile in catalogue().profiles.values() for name in profile.env}
    assert toggles == {
        "ENABLE_STEADYDANCER", "ENABLE_DWPOSE", "ENABLE_WAN22_DISTILL", "WAN_720P", "WAN_480P", "ENABLE_I2V",
        "ENABLE_VACE", "ENABLE_FUN_INP", "ENABLE_SCAIL", "ENABLE_ZIMAGE", "ENABLE_ILLUSTRIOUS", "ENABLE_CONTROLNET",
        "ENABLE_QWEN_EDIT", "ENABLE_VIBEVOICE", "ENABLE_GENFOCUS", "ENABLE_MVINVERSE", "ENABLE_FLASHPORTRAIT",
        "ENABLE_STORYMEM", "ENABLE_INFCAM",
    }  # fmt: skip


def test_shards_are_one_variant():
    shards = catalogue().variants["steadydancer/official"].diffusion
    names = [catalogue().files[shard].name for shard in shards]
    assert names == [f"SteadyDancer-14B/diffusion_pytorch_model-{i:05}-of-00007.safetensors" for i in range(1, 8)]


def test_good_toy(tmp_path):
    assert read_text(tmp_path, GOOD).variants["toy/one"].vae == ("toy",)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ('role = "vae"', 'role = "vea"', 6, "vea"),
        ('folder = "vae"', 'folder = "../.."', 7, "inside the models folder"),
        ('name = "toy.safetensors"', "name = 3", 8, "text"),
        ("gb = 1", "gb = -1", 10, "above 0"),
        ("gb = 1", 'gb = 1\nsha256 = "XYZ"', 11, "hexadecimal"),
        ("gb = 1", "gb = 1\nbites = 3", 11, "not a known field"),
        ('confirmed = "here"', "", 5, "confirmed"),
        ('confirmed = "here"', 'confirmed = "listing"', 11, "pattern"),
        ('{ hub = "a/b", path = "toy.safetensors" }', '{ ftp = "x" }', 12, "a source is"),
        ('{ hub = "a/b", path = "toy.safetensors" }', '{ url = "file:///etc/passwd" }', 12, "a source is"),
        ('vae = ["toy"]', 'vae = ["toys"]', 16, "toys"),
        ("[variants.one]", "[variants.one", 14, "line 14"),
    ],
)
def test_errors_name_file_and_line(tmp_path, old, new, line, why):
    with pytest.raises(ValueError, match="^toy.toml") as caught:
        read_text(tmp_path, GOOD.replace(old, new))
    assert re.search(rf"line {line}\b", str(caught.value)), caught.value
    assert why in str(caught.value)


def test_profiles_name_what_exists(tmp_path):
    with pytest.raises(ValueError, match=r"^profiles.toml, line 3: items: there is no variant or file 'toy/two'"):
        read_text(tmp_path, GOOD, '[profiles.x]\ntitle = "x"\nitems = ["toy/two"]\n')


def models_of(value):
    """Every `models` entry and loader file inside an example workflow or API prompt."""
    if isinstance(value, dict):
        if {"name", "url", "directory"} <= value.keys():
            yield value["name"], value["directory"]
        for name, folder in (("unet_name", "diffusion_models"), ("vae_name", "vae"), ("lora_name", "loras")):
            if isinstance(value.get(name), str):
                yield value[name], folder
        if isinstance(value.get("clip_name"), str):
            yield value["clip_name"], "text_encoders" if "type" in value else "clip_vision"
        for child in value.values():
            yield from models_of(child)
    elif isinstance(value, list):
        for child in value:
            yield from models_of(child)


def test_every_model_of_an_example_workflow_is_in_the_catalogue():
    known = {(file.name, file.folder) for file in catalogue().files.values()}
    found = set()
    for path in (support.ROOT / "example_workflows").rglob("*.json"):
        found |= set(models_of(json.loads(path.read_text("utf-8"))))
    assert found and found <= known


def test_the_help_page_has_every_profile_and_variable():
    page = (support.ROOT / "web" / "docs" / "SteadyDancerDownload.md").read_text("utf-8")
    for profile in catalogue().profiles.values():
        (row,) = re.findall(rf"^\| `{re.escape(profile.name)}` .*$", page, re.MULTILINE)
        assert profile.title in row
        assert all(f"`{name}`" in row for name in (*profile.env, *profile.choices))
