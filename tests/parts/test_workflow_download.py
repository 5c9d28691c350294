"""`cli.py download FLOW.json` and `--template NAME` against a real server with faults."""

import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest
from steadydancer.catalog.catalog import catalogue
from steadydancer.loaders.download import workflow
from support.cli_against_hub import tensor_file
from support.hub import Fault
from support.safetensors_header import write_hollow

TEMPLATES = Path(importlib.util.find_spec(workflow.PACKAGE).submodule_search_locations[0], "templates")


@pytest.fixture
def cli(cli):
    return partial(cli, "download")


def entry(name: str, folder: str = "vae", url: str = "") -> dict:
    return {"name": name, "directory": folder, "url": url or f"https://huggingface.co/a/b/resolve/main/x/{name}"}


def flow(folder: Path, *entries: dict, **more) -> Path:
    path = folder / "my flow.json"
    path.write_text(json.dumps({"nodes": [{"type": "X", "properties": {"models": list(entries)}}], **more}))
    return path


def here(tmp_path: Path) -> list[str]:
    models = tmp_path / "models"
    return sorted(path.relative_to(models).as_posix() for path in models.rglob("*.safetensors"))


def test_a_graph_with_subgraphs_and_faults_on_the_way(cli, hub, tmp_path):
    faults = {
        "a": Fault(drop_at=0.5, times=1),
        "b": Fault(statuses=(503,)),
        "c": Fault(statuses=(429,), retry_after="0"),
    }
    data = {name: tensor_file(900_000) for name in "abc"}
    for name, fault in faults.items():
        hub.put("a/b", f"x/{name}.safetensors", data[name])
        hub.faults[f"{name}.safetensors"] = fault
    inner = {
        "id": "s",
        "nodes": [{"type": "X", "properties": {"models": [entry("b.safetensors", "loras")]}}, {"type": "t"}],
    }
    deep = {"id": "t", "nodes": [{"type": "X", "properties": {"models": [entry("c.safetensors", "my_kind")]}}]}
    path = flow(tmp_path, entry("a.safetensors"), definitions={"subgraphs": [inner, deep]})
    graph = json.loads(path.read_text())
    graph["nodes"].append({"type": "s"})
    path.write_text(json.dumps(graph))
    plan = cli(path, "--dry-run")
    total = sum(map(len, data.values()))
    assert plan.returncode == 0 and f"3 of 3 files to fetch, {total:,} bytes" in plan.stdout and hub.sent == 0
    assert "about 1 s at 100 Mbit/s, 1 s at 1 Gbit/s" in plan.stdout
    done = cli(path)
    assert done.returncode == 0, done.stderr
    assert here(tmp_path) == ["loras/b.safetensors", "my_kind/c.safetensors", "vae/a.safetensors"]
    for name, folder in (("a", "vae"), ("b", "loras"), ("c", "my_kind")):
        assert (tmp_path / "models" / folder / f"{name}.safetensors").read_bytes() == data[name]
    hub.requests.clear()
    again = cli(path)
    assert again.returncode == 0 and "0 of 3 files to fetch" in again.stdout and hub.requests == []


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(wrong=True), "arrived damaged: its sha256 is not"),
        (Fault(gated=True), "its licence must be accepted once"),
        (Fault(statuses=(404,) * 9), "does not have a.safetensors"),
        (Fault(page="away"), "answered with a web page in its place"),
    ],
)
def test_a_fault_that_stays_is_one_sentence(cli, hub, tmp_path, fault, sentence):
    hub.put("a/b", "x/a.safetensors", tensor_file(100_000))
    hub.faults["a.safetensors"] = fault
    done = cli(flow(tmp_path, entry("a.safetensors")))
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
    assert here(tmp_path) == []


def test_what_is_hostile_or_foreign_is_told_and_the_rest_is_fetched(cli, hub, tmp_path):
    hub.put("a/b", "x/good.safetensors", tensor_file(1000))
    hub.put("a/b", "x/evil.safetensors", tensor_file(1000))
    evil = f"{hub.endpoint}/a/b/resolve/main/x/evil.safetensors"
    path = flow(
        tmp_path,
        entry("../../evil.safetensors", url=evil),
        entry(str(tmp_path / "evil.safetensors"), url=evil),
        entry("evil.safetensors", "../../custom_nodes", url=evil),
        entry("evil.safetensors", "custom_nodes", url=evil),
        entry("x\x1b[2Jy.safetensors", url=evil),
        entry("foreign.safetensors", url=f"{hub.cdn}/blob/a/b/x/evil.safetensors?token=secret"),
        entry("evil.pth", url=evil),
        entry("good.safetensors"),
    )
    before = {file for file in tmp_path.rglob("*") if "hub" not in file.parts}
    done = cli(path)
    assert done.returncode == 1, done.stdout
    assert here(tmp_path) == ["vae/good.safetensors"]
    new = {file for file in tmp_path.rglob("*") if "hub" not in file.parts} - before
    assert all(file.is_relative_to(tmp_path / "models") for file in new)
    assert all("evil" not in asked for _, _, asked, _ in hub.requests)
    for part in ("leads out of the models folder", "no folder of models", "no file of huggingface.co", "can run code"):
        assert part in done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "secret" not in done.stdout + done.stderr
    assert "6 more cannot be fetched" in done.stdout


def test_no_network(cli, hub, tmp_path):
    path = flow(tmp_path, entry("a.safetensors"))
    forbidden = cli(path, HF_HUB_OFFLINE="1")
    assert forbidden.returncode == 1 and "HF_HUB_OFFLINE forbids" in forbidden.stderr
    assert "unknown bytes" in forbidden.stdout and "a.safetensors" in forbidden.stdout
    hub.stop()
    plan = cli(path, "--dry-run")
    assert plan.returncode == 0 and "refuses connections" in plan.stderr and "Traceback" not in plan.stderr


def test_a_template_by_name(cli, hub, tmp_path):
    """With one of its files here already, and one whose size its publisher is asked for."""
    (tmp_path / "models" / "vae").mkdir(parents=True)
    write_hollow(tmp_path / "models" / "vae" / "wan_2.1_vae.safetensors", {"w": ("F16", (8,), 16)})
    name = "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors"
    hub.put("Comfy-Org/Wan_2.2_ComfyUI_Repackaged", f"split_files/diffusion_models/{name}", tensor_file(5000))
    plan = cli("--template", "video_wan2_2_14B_i2v", "--dry-run")
    assert plan.returncode == 0 and "5 of 6 files to fetch" in plan.stdout, plan.stderr
    assert "present" in plan.stdout and f"diffusion_models/{name}" in plan.stdout
    nothing = cli("--template", "api_wan2_6_i2v")
    assert nothing.returncode == 0 and "nothing to fetch" in nothing.stdout
    unknown = cli("--template", "video_wan2_2_14B_i2w")
    assert unknown.returncode == 1 and "Did you mean video_wan2_2_14B_i2v" in unknown.stderr
    both = cli("dwpose", "--template", "steadydancer_basic", "--dry-run", HF_HUB_OFFLINE="1")
    assert "6 files to fetch" in both.stdout


def test_all_templates_of_comfyui_name_their_models():
    """But one, in 0.1.27, which holds a name that none of its addresses has."""
    incomplete, fetching, without = set(), 0, 0
    for path in sorted(TEMPLATES.glob("*.json")):
        graph = json.loads(path.read_text("utf-8"))
        if isinstance(graph, dict) and "nodes" in graph:
            named = workflow.named(graph, lambda family: catalogue().families[family].default)
            fetching, without = fetching + bool(named.files), without + (not named.files)
            if named.left:
                incomplete.add(path.stem)
    assert incomplete <= {"image_mage_flow_turbo_t2i_int8"}
    assert fetching > 200 and without > 200
