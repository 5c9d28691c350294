"""What a workflow names: from graphs, subgraphs, prompts and templates to files, and what is refused of them."""

import importlib.util
from pathlib import Path

import pytest
import support
from steadydancer.catalog.catalog import Source, catalogue
from steadydancer.loaders.download import workflow
from steadydancer.loaders.download.places import Places

HUB = "https://huggingface.co/owner/repo/resolve/main/"
TEMPLATES = Path(importlib.util.find_spec(workflow.PACKAGE).submodule_search_locations[0], "templates")


def entry(name="a.safetensors", url="", folder="vae") -> dict:
    return {"name": name, "url": url or f"{HUB}{name}", "directory": folder}


def node(*entries: dict, kind="VAELoader", **more) -> dict:
    return {
        "type": kind,
        "widgets_values": [e["name"] for e in entries],
        "properties": {"models": list(entries)},
        **more,
    }


def found(graph: dict) -> workflow.Named:
    return workflow.named(graph, lambda family: catalogue().families[family].default)


def names(graph: dict) -> list[str]:
    return sorted(f"{file.folder}/{file.name}" for file in found(graph).files)


def test_nodes_subgraphs_group_nodes_and_blocks():
    """An unused subgraph's models are nobody's, a nested one's are."""
    graph = {
        "nodes": [node(entry("top.safetensors")), {"type": "one"}, {"type": "workflow>old"}],
        "definitions": {
            "subgraphs": [
                {"id": "one", "nodes": [node(entry("inner.safetensors")), {"type": "two"}]},
                {"id": "two", "nodes": [node(entry("deep.gguf", folder="diffusion_models"))]},
                {"id": "unused", "nodes": [node(entry("unused.safetensors"))]},
            ]
        },
        "extra": {"groupNodes": {"old": {"nodes": [node(entry("group.sft"))]}}, "models": [entry("extra.safetensors")]},
        "models": [entry("block.onnx", folder="detection")],
    }
    assert names(graph) == [
        "detection/block.onnx", "diffusion_models/deep.gguf", "vae/extra.safetensors", "vae/group.sft",
        "vae/inner.safetensors", "vae/top.safetensors",
    ]  # fmt: skip
    assert found(graph).left == [] and found(graph).off == []


def test_a_subgraph_in_itself_ends():
    graph = {"nodes": [{"type": "one"}], "definitions": {"subgraphs": [{"id": "one", "nodes": [{"type": "one"}]}]}}
    assert names(graph) == []


@pytest.mark.parametrize("mode", workflow.OFF)
def test_muted_and_bypassed_nodes_want_nothing_and_are_told(mode):
    graph = {
        "nodes": [
            node(entry("on.safetensors")),
            node(entry("off.safetensors"), mode=mode),
            {"type": "one", "mode": mode},
        ],
        "definitions": {
            "subgraphs": [{"id": "one", "nodes": [node(entry("in.safetensors")), node(entry("on.safetensors"))]}]
        },
    }
    assert names(graph) == ["vae/on.safetensors"]
    assert found(graph).off == ["in.safetensors", "off.safetensors"]


def test_the_catalogue_knows_more_of_a_file_than_the_graph():
    """Its hash and its other sources, where name, folder and address are the catalogue's; else the graph's address counts."""
    ours = catalogue().files["wan-2.1-vae"]
    url = f"https://huggingface.co/{ours.sources[1].where}/resolve/main/{ours.sources[1].path}?download=true"
    assert found({"nodes": [node(entry(ours.name, url))]}).files == [ours]
    (other,) = found({"nodes": [node(entry(ours.name))]}).files
    assert other.sources == (Source("hub", "owner/repo", ours.name),) and other.sha256 == ""
    assert found({"nodes": [node(entry(ours.name, "https://example.com/x.safetensors"))]}).files == [ours]


def test_names_that_only_a_widget_holds():
    graph = {
        "nodes": [
            {"type": "VAELoader", "widgets_values": ["wan\\wan_2.1_vae.safetensors"]},
            {"type": "Other", "widgets_values": {"model": ["deep/mine.ckpt", 3], "text": "a poem.\nend.safetensors"}},
            {"type": "Note", "widgets_values": ["put.safetensors"]},
            {"type": "UnetLoaderGGUF", "widgets_values": ["x/Wan21_I2V_SteadyDancer_fp16-Q4_K_M_fix_5d_tensor.gguf"]},
        ]
    }
    assert [file.id for file in found(graph).files] == ["wan-2.1-vae", "steadydancer-Q4_K_M"]
    (left,) = found(graph).left
    assert left.name == "mine.ckpt" and "neither the workflow nor the catalogue" in left.why


def test_an_api_prompt_has_its_names_in_inputs():
    prompt = {
        "1": {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae.safetensors"}},
        "2": {"class_type": "SteadyDancerLoader", "inputs": {"variant": "auto", "step_distill": True}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "me.png", "mask": ["1", 0]}},
    }
    fp8 = {*catalogue().variants["steadydancer/fp8"].files, "lightx2v-i2v-480p-rank64"}
    for graph in (prompt, {"prompt": prompt, "client_id": "x"}):
        assert {file.id for file in found(graph).files} == fp8


def test_two_addresses_of_one_file_are_two_sources():
    (file,) = found({"nodes": [node(entry()), node(entry(url="https://hf.co/b/c/resolve/v2/d/a.safetensors"))]}).files
    assert file.sources == (
        Source("hub", "owner/repo", "a.safetensors"),
        Source("hub", "b/c", "d/a.safetensors", revision="v2"),
    )


def test_the_catalogue_s_file_and_another_address_of_it_are_one():
    ours = catalogue().files["wan-2.1-vae"]
    theirs = entry(ours.name, f"https://huggingface.co/{ours.sources[0].where}/resolve/main/{ours.sources[0].path}")
    (file,) = found({"nodes": [node(theirs), node(entry(ours.name))]}).files
    assert file.id == ours.id and file.sources == (*ours.sources, Source("hub", "owner/repo", ours.name))


ADDRESSES = {
    "https://huggingface.co/o/r/blob/main/d/a%20b.safetensors?download=true": Source("hub", "o/r", "d/a b.safetensors"),
    "https://HUGGINGFACE.co:443/o/r/resolve/refs%2Fpr%2F1/a.gguf": Source("hub", "o/r", "a.gguf", revision="refs/pr/1"),
    "https://hf-mirror.com/o/r/resolve/main/a.gguf": Source("hub", "o/r", "a.gguf"),
    "https://civitai.com/api/download/models/123?type=Model&format=SafeTensor": Source("civitai", "123"),
    "https://civitai.com/models/9/some-name?modelVersionId=456": Source("civitai", "456"),
}


@pytest.mark.parametrize(("url", "source"), ADDRESSES.items())
def test_addresses(url, source):
    assert workflow.source_of(url) == source


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/o/r/resolve/main/a.safetensors",
        "https://huggingface.co.example.com/o/r/resolve/main/a.safetensors",
        "https://huggingface.co@example.com/o/r/resolve/main/a.safetensors",
        "https://user:secret@huggingface.co/o/r/resolve/main/a.safetensors",
        "http://huggingface.co/o/r/resolve/main/a.safetensors",
        "https://huggingface.co:8443/o/r/resolve/main/a.safetensors",
        "https://huggingface.co:x/o/r/resolve/main/a.safetensors",
        "https://[huggingface.co/o/r/resolve/main/a.safetensors",
        "https://huggingface.co/o/r/resolve/main/../../../x/y/resolve/main/a.safetensors",
        "https://huggingface.co/o/r/resolve/main/%2e%2e/a.safetensors",
        "https://huggingface.co/../r/resolve/main/a.safetensors",
        "https://huggingface.co/datasets/o/r/resolve/main/a.safetensors",
        "https://huggingface.co/o/r",
        "https://civitai.com/models/9",
        "https://civitai.com/models/9?modelVersionId=4%2F..",
        "file:///etc/passwd",
        "http://127.0.0.1:8188/o/r/resolve/main/a.safetensors",
        "http://169.254.169.254/latest/meta-data",
        "ftp://huggingface.co/o/r/resolve/main/a.safetensors",
        "a.safetensors",
    ],
)
def test_a_foreign_address_is_told_and_not_asked(url):
    named = found({"nodes": [node(entry(url=url), entry("b.safetensors"))]})
    assert [file.name for file in named.files] == ["b.safetensors"]
    (left,) = named.left
    assert "no file of huggingface.co or civitai.com" in left.why and "secret" not in left.why


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors", "a/../../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "C:\\x.safetensors",
        "C:x.safetensors", "\\\\host\\x.safetensors", "a\\b.safetensors", "*.safetensors", "a?.safetensors",
        "con/x.safetensors", "nul.safetensors", "x\u202e.safetensors", "x\n.safetensors", "\ud800.safetensors",
        "a//b.safetensors", "./x.safetensors", "x. /y.safetensors", f"{'x' * 300}.safetensors", "x.safetensors/",
    ],
)  # fmt: skip
def test_a_hostile_name_is_refused(name, tmp_path):
    named = found({"nodes": [node(entry(name, f"{HUB}x.safetensors"))]})
    assert named.files == []
    (left,) = named.left
    assert (
        "leads out of the models folder" in left.why
        or "no file should have" in left.why
        or "not a model file" in left.why
    )
    assert workflow.still_left(named.left, Places(tmp_path)) == [left]


@pytest.mark.parametrize(
    "folder",
    [
        "..",
        "../vae",
        "/etc",
        "vae/../..",
        "C:\\vae",
        "custom_nodes",
        "Custom_Nodes/x",
        "configs",
        "",
        ".",
        ".git",
        "a b",
        "~",
    ],
)
def test_a_hostile_folder_is_refused(folder):
    named = found({"nodes": [node(entry(folder=folder))]})
    assert named.files == []
    assert folder == "" or "no folder of models" in named.left[0].why


@pytest.mark.parametrize(
    ("name", "why"),
    [("a.ckpt", "can run code"), ("a.PTH", "can run code"), ("a.py", "not a model"), ("a", "not a model")],
)
def test_only_files_that_cannot_run_code(name, why):
    named = found({"nodes": [node(entry(name))]})
    assert named.files == [] and why in named.left[0].why


def test_the_catalogue_vouches_for_its_own_pickles():
    pickle = next(file for file in catalogue().files.values() if file.format == "pickle" and file.role == "diffusion")
    url = f"https://huggingface.co/{pickle.sources[0].where}/resolve/main/{pickle.sources[0].path}"
    assert found({"nodes": [node(entry(pickle.name, url, pickle.folder))]}).files == [pickle]


def test_what_is_left_but_lies_here_is_not_missed(tmp_path):
    left = found({"nodes": [{"type": "X", "widgets_values": ["mine.pth"]}, node(entry("b.ckpt"))]}).left
    assert len(workflow.still_left(left, Places(tmp_path))) == 2
    for path in ("odd/sub/mine.pth", "vae/b.ckpt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"")
    assert workflow.still_left(left, Places(tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[" * 99999, "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "not a workflow"),
        ("{}", "not a workflow"),
        (None, "no file"),
    ],
    ids=["half", "deep", "latin", "list", "empty", "none"],
)
def test_a_file_that_is_no_workflow(tmp_path, text, why):
    path = tmp_path / "flow.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=why):
        workflow.read(path)


@pytest.mark.parametrize(
    "graph",
    [
        {"nodes": [3, None, {"type": ["x"], "mode": [], "properties": [], "widgets_values": 7, "inputs": 1}]},
        {"nodes": [{"type": "X", "properties": {"models": {"name": 1}}}], "definitions": [], "extra": 5, "models": "x"},
        {"nodes": [{"type": "X", "properties": {"models": [{"name": 1, "url": None, "directory": []}, 4]}}]},
        {
            "nodes": [
                {"type": "SteadyDancerLoader"},
                {"type": "SteadyDancerDownload", "widgets_values": [None, "nothing"]},
            ]
        },
        {"1": {"class_type": "X"}, "2": {"class_type": "SteadyDancerLoader", "inputs": None}},
    ],
)
def test_odd_graphs_name_nothing(graph):
    assert found(graph) == workflow.Named()


def test_templates_by_name():
    assert workflow.template("video_wan2_2_14B_i2v").parent == TEMPLATES
    assert workflow.template("steadydancer_auto.json").parent == support.ROOT / "example_workflows"
    for name in ("video_wan2_2_14B_i2w", "../../etc/passwd", ""):
        with pytest.raises(ValueError, match="There is no template"):
            workflow.template(name)
    with pytest.raises(ValueError, match="Did you mean video_wan2_2_14B_i2v"):
        workflow.template("video_wan2_2_14B_i2w")


@pytest.mark.parametrize("link", [None, 7])
def test_a_linked_switch_may_want_the_lora_at_any_run(link):
    slots = [{"name": "step_distill", "widget": {"name": "step_distill"}, "link": link}]
    loader = {"type": "SteadyDancerLoader", "inputs": slots, "widgets_values": ["steadydancer/fp8", False, 1]}
    folders = {file.folder for file in found({"nodes": [loader]}).files}
    assert ("loras" in folders) is (link is not None)


def test_our_own_templates_name_what_they_fetch():
    wanted = {
        "steadydancer_auto": 4,
        "steadydancer_from_video": 7,
        "steadydancer_turbo": 5,
        "turbo_i2v": 4,
        "wan_t2v_auto": 3,
    }
    for name, count in wanted.items():
        for path in (
            support.ROOT / "example_workflows" / f"{name}.json",
            support.ROOT / "example_workflows/api" / f"{name}.json",
        ):
            assert len(found(workflow.read(path)).files) == count, path
