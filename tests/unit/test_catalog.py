"""The catalogue: every shipped entry is right, and a wrong one would be found."""

import ast
import json
import re
from pathlib import PurePosixPath

import pytest
import support
from steadydancer.base.toml import read_toml, tomllib
from steadydancer.catalog.catalog import DATA, PARTS, ModelFile, catalogue, read, tables
from steadydancer.catalog.names import files_of, quants
from steadydancer.loaders.download import workflow
from steadydancer.planning.model_sizes import kinds, plannable

FAMILIES = sorted((DATA / "families").glob("*.toml"))
ROLES = {
    "diffusion", "text_encoder", "clip_vision", "vae", "lora", "pose", "detector", "checkpoint", "embedding", "controlnet",
    "bundle", "tokenizer",
}  # fmt: skip
FORMATS = {"safetensors", "gguf", "onnx", "pickle", "folder", "text"}
LOADERS = {"", "steadydancer", "turbo", "core", "pose"}
PRECISIONS = {"fp32", "bf16", "fp16", "fp8", "int8", "int8_convrot"}
SOURCES = ({"hub", "path"}, {"hub", "patterns"}, {"hub"}, {"url"}, {"civitai"})
FAMILY_FIELDS = {"id", "title", "loader", "clip_type", "default", "licence", "files", "variants"}
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


def wrong_in_family(data: dict, files: set[str]) -> list[str]:
    """What is wrong in a family's file; `files` are the ids of all families' files."""
    found = [f"unknown field {key}" for key in data.keys() - FAMILY_FIELDS]
    found += [f"{key} is missing" for key in ("id", "title", "licence") if not data.get(key)]
    if data.get("loader", "") not in LOADERS:
        found.append(f"loader {data['loader']}")
    for name, entry in tables(data.get("files", {})):
        found += [f"{name}: {what}" for what in wrong_in_file(entry)]
    for name, entry in tables(data.get("variants", {})):
        found += [f"{name}: unknown field {key}" for key in entry.keys() - {"title", "experts", *PARTS}]
        named = [file for part in PARTS for file in entry.get(part, [])]
        found += [f"{name}: no file {file}" for file in named if file not in files]
        if not named or not entry.get("title"):
            found.append(f"{name}: needs a title and files")
        if entry.get("experts", 1) != 1 and entry["experts"] != len(entry["diffusion"]):
            found.append(f"{name}: a file for each expert")
    return found


def wrong_in_file(entry: dict) -> list[str]:
    fields = ModelFile.__dataclass_fields__.keys() - {"id", "family"}
    found = [f"unknown field {key}" for key in entry.keys() - fields]
    for key in ("role", "folder", "format", "confirmed", "name", "sha256", "licence"):
        if not isinstance(entry.get(key, "" if key in ("name", "sha256", "licence") else None), str):
            found.append(f"{key} is not a text")
    if found:
        return found
    if entry["role"] not in ROLES or entry["format"] not in FORMATS:
        found.append(f"role {entry['role']} or format {entry['format']}")
    for field in ("folder", "name"):
        path = PurePosixPath(entry.get(field, ""))
        if path.is_absolute() or ".." in path.parts or "\\" in str(path):
            found.append(f"{field} must stay inside the models folder")
    if not re.fullmatch("([0-9a-f]{8,64})?", entry.get("sha256", "")):
        found.append("sha256 must be 8 to 64 lower-case hexadecimal digits")
    sizes = [entry[key] for key in ("bytes", "gb") if key in entry]
    if not sizes or not all(isinstance(size, int | float) and size > 0 for size in sizes):
        found.append("bytes or gb must be a number above 0")
    if not isinstance(entry.get("full_precision", False), bool):
        found.append("full_precision must be true or false")
    if bool(entry.get("sources")) == bool(entry.get("made_from")):
        found.append("needs at least one source, or the file that it is made of")
    if entry.get("made_from", "steadydancer-fp16") not in catalogue().files:
        found.append(f"{entry['made_from']}, which it is made of, is no file")
    for source in entry.get("sources", []):
        found += wrong_in_source(source, entry)
    if entry["role"] == "diffusion":
        kind = r"I?Q\d\w*" if entry["format"] == "gguf" else "|".join(PRECISIONS)
        if not re.fullmatch(kind, entry.get("precision", "")):
            found.append(f"precision {entry.get('precision')}")
        if not entry.get("architecture"):
            found.append("architecture is missing")
    if entry["role"] == "bundle" and (entry["format"] != "folder" or entry["sources"][0].keys() != {"hub"}):
        found.append("a bundle is the folder of a repository")
    if "{each}" in repr(entry):
        found.append("{each} is left")
    return found


def wrong_in_source(source: dict, entry: dict) -> list[str]:
    found = []
    if source.keys() - {"revision"} not in SOURCES or not source.get("url", "https://").startswith("https://"):
        found.append(f"a source is {{hub, path}}, {{hub, patterns}}, {{hub}}, {{url}} or {{civitai}}: {source}")
    if entry["confirmed"] == "listing" and "path" in source:
        found.append("a name that nothing confirms must be a pattern, a snapshot or a version id")
    if not entry.get("name") and "patterns" not in source:
        found.append("a name is needed unless a pattern finds it")
    if "hub" in source and not re.fullmatch(r"[\w.-]+/[\w.-]+", source["hub"]):
        found.append(f"repository {source['hub']}")
    if "path" in source and entry.get("name") and not source["path"].endswith(entry["name"].rsplit("/", 1)[-1]):
        found.append(f"{source['path']} is another name than {entry['name']}")
    return found


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_every_entry_is_right(path):
    data = read_toml(path)
    assert data.get("files") or data.get("variants")
    assert wrong_in_family(data, set(catalogue().files)) == []


def test_every_entry_has_a_name_of_its_own():
    """An id that two families use would silently be the later one's."""
    for kind in ("files", "variants"):
        names = []
        for data in map(read_toml, FAMILIES):
            ids = [name for name, _ in tables(data.get(kind, {}))]
            names += [name if kind == "files" or "/" in name else f"{data['id']}/{name}" for name in ids]
        assert len(names) > 30 and len(names) == len(set(names)) == len(getattr(catalogue(), kind))
    assert len(catalogue().families) == len(FAMILIES)


def test_every_profile_names_what_exists(monkeypatch):
    book = catalogue()
    assert book.profiles
    for profile in book.profiles.values():
        for item in profile.items:
            family, _, variant = item.partition("/")
            assert variant != "auto" or book.families[family].default
        for value in [*profile.words, *profile.words.values(), ""]:
            with monkeypatch.context() as changed:
                for variable in profile.choices:
                    changed.setenv(variable, value.upper())
                assert files_of([profile.name], lambda family: book.families[family].default)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('role = "vae"', 'role = "vea"', "vea"),
        ('folder = "vae"', 'folder = "../.."', "inside the models folder"),
        ('name = "toy.safetensors"', 'name = "/etc/toy.safetensors"', "inside the models folder"),
        ('name = "toy.safetensors"', "name = 3", "text"),
        ("gb = 1", "gb = -1", "above 0"),
        ("gb = 1", "", "above 0"),
        ("gb = 1", 'gb = 1\nsha256 = "XYZ"', "hexadecimal"),
        ("gb = 1", "gb = 1\nbites = 3", "unknown field bites"),
        ('confirmed = "here"', "", "confirmed"),
        ('confirmed = "here"', 'confirmed = "listing"', "pattern"),
        ('{ hub = "a/b", path = "toy.safetensors" }', '{ ftp = "x" }', "a source is"),
        ('{ hub = "a/b", path = "toy.safetensors" }', '{ url = "file:///etc/passwd" }', "a source is"),
        ('{ hub = "a/b", path = "toy.safetensors" }', '{ hub = "a/b", path = "other.safetensors" }', "another name"),
        ('vae = ["toy"]', 'vae = ["toys"]', "no file toys"),
        ('vae = ["toy"]', 'vea = ["toy"]', "unknown field vea"),
        ('role = "vae"', 'role = "diffusion"', "precision"),
        ('licence = "MIT"', 'licence = "MIT"\nloader = "SteadyDancerLoader"', "loader"),
    ],
)
def test_a_wrong_entry_is_found(old, new, why):
    assert wrong_in_family(tomllib.loads(GOOD), {"toy"}) == []
    assert old in GOOD
    found = wrong_in_family(tomllib.loads(GOOD.replace(old, new)), {"toy"})
    assert why in " ".join(found)


def test_good_toy(tmp_path):
    (tmp_path / "toy.toml").write_text(GOOD)
    (tmp_path / "profiles").write_text("[profiles]")
    assert read(tmp_path, tmp_path / "profiles").variants["toy/one"].vae == ("toy",)


def test_shards_and_experts_are_alike():
    """The first file of a variant speaks for all of them."""
    book = catalogue()
    several = [variant for variant in book.variants.values() if len(variant.diffusion) > 1]
    assert {variant.experts for variant in several} == {1, 2}
    for variant in several:
        assert len({(book.files[id].precision, book.files[id].architecture) for id in variant.diffusion}) == 1


def test_what_can_be_chosen_has_no_precision_twice():
    """A choice is made by precision, so two variants of one would be one too many."""
    book = catalogue()
    chosen = [family for family in book.families.values() if family.default]
    assert len(chosen) >= 2
    for family in chosen:
        assert book.variants[family.default].family == family.id
        variants = [variant for variant in book.variants.values() if variant.family == family.id]
        precisions = [book.diffusion(variant).precision for variant in variants]
        assert len(precisions) == len(set(precisions)) > 5
        assert all(book.diffusion(variant).architecture in kinds()["architectures"] for variant in variants)
    assert next(iter(quants("steadydancer"))) == "Q2_K" and quants("steadydancer")["Q8_0"] == "steadydancer/Q8_0"
    assert len(plannable()) == 34


@pytest.mark.parametrize("profile", [p for p in catalogue().profiles.values() if p.graph], ids=lambda p: p.name)
def test_a_profile_is_what_its_graph_wants(profile, monkeypatch):
    """All the files of ComfyUI's template, under the same names, in the same folders, and no other."""
    monkeypatch.setenv("QWEN_EDIT_MODEL", "fp8")  # the graph has this one of several
    graph = workflow.named(workflow.read(workflow.template(profile.graph)), str)
    wanted = {(file.folder, file.name) for file in graph.files}
    assert {(file.folder, file.name) for file in files_of([profile.name], str)} == wanted
    assert len(wanted) >= 3 and graph.left == []


ID = re.compile(r"\b(variant|file|source)\.id$|^(\w+\.)?(?<!args\.)(variant|chosen|wanted|variant_id|file_id)$")
TAKE_APART = {
    "endswith",
    "startswith",
    "split",
    "rsplit",
    "partition",
    "rpartition",
    "removeprefix",
    "removesuffix",
    "find",
    "index",
}


def readings(code: str) -> list[str]:
    """The expressions that take an id apart, look for something in one, or build one of a family and a precision."""
    found: list[ast.AST] = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Attribute(value, name), args=given):
                of_id = name in TAKE_APART and ID.search(ast.unparse(value))
                searched = ast.unparse(value) == "re" and any(ID.search(ast.unparse(one)) for one in given)
                found += [node] if of_id or searched else []
            case ast.Compare(ast.Constant(), [ast.In() | ast.NotIn()], [where]):
                found += [node] if ID.search(ast.unparse(where)) else []
            case ast.Subscript(value, ast.Slice()):
                found += [node] if ID.search(ast.unparse(value)) else []
            case ast.JoinedStr([ast.FormattedValue(ast.Name("family")), ast.Constant("/"), *_]):
                found.append(node)
    return [ast.unparse(node) for node in found]


@pytest.mark.parametrize(
    "code",
    [
        'variant.endswith("fp8")', 'chosen.split("/")[1]', '"gguf" in variant.id', 'plan.variant.partition("/")',
        're.search("Q", variant)', 'f"{family}/{wish}"', "file.id[-1:]", '"fp8" not in wanted',
    ],
)  # fmt: skip
def test_a_reading_of_an_id_is_seen(code):
    assert len(readings(code)) == 1


def test_no_code_reads_meaning_out_of_an_id():
    """Precision, architecture and experts are fields; and data does not know what nodes are called."""
    names = ("catalog", "machine", "planning", "loaders", "services", "nodes", "commands", "report")
    paths = [path for room in names for path in (support.ROOT / room).rglob("*.py")]
    assert len(paths) > 65
    assert not [(path.name, found) for path in paths for found in readings(path.read_text("utf-8"))]
    patterns = re.compile(r"Q\\d|fp8\||\|fp16|turbowan\.\*")
    data = [path for room in names for path in (support.ROOT / room).rglob("*.toml")]
    assert not [path.name for path in [*paths, *data] if patterns.search(path.read_text("utf-8"))]
    nodes = re.compile(r"SteadyDancer\w*(Loader|Selector|Planner|Estimator)")
    assert len(data) > 20 and not [path for path in data if nodes.search(path.read_text("utf-8"))]


def test_every_family_is_loadable_or_download_only():
    for family in catalogue().families.values():
        variants = [variant for variant in catalogue().variants.values() if variant.family == family.id]
        if any(variant.text_encoder for variant in variants) and family.loader:
            assert family.clip_type
    for variant in catalogue().variants_for("core"):
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
        assert all(f"`{name}`" in row for name in (*profile.env, *profile.choices, *filter(None, [profile.graph])))
        assert all(f"({default})" in row for default in profile.choices.values())
