"""The loader nodes in a real ComfyUI: bare folders, a local Hub, Cancel, offline, and parts that are linked later."""

import json
import time

import pytest
import torch
from support import tiny
from support.gguf_writer import BY_NAME
from support.hub import Fault, Hub
from support.tiny_gguf import write_steadydancer_gguf

FP16 = "Kijai/WanVideo_comfy/SteadyDancer/Wan21_I2V_SteadyDancer_fp16.safetensors"
LORA = "Kijai/WanVideo_comfy/Lightx2v/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
SHARED = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/split_files"
CANARY = "hf_canary_0123456789"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    tiny.write_steadydancer(root / FP16, "fp16")
    tiny.write_lora(root / LORA)
    tiny.write_vae(root / SHARED / "vae" / "wan_2.1_vae.safetensors")
    tiny.write_clip_vision(root / SHARED / "clip_vision" / "clip_vision_h.safetensors")
    tiny.write_t5_base(root / SHARED / "text_encoders" / "umt5_xxl_fp16.safetensors")
    hub = Hub(root)
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def server(hub, start_comfy):
    variables = {"HF_ENDPOINT": hub.endpoint, "STEADYDANCER_VARIANT": "fp16", "HF_TOKEN": CANARY}
    server = start_comfy(variables=variables)
    tiny.provide(server.base_directory / "models", "text_encoders/tiny_umt5.safetensors")
    return server


@pytest.fixture(autouse=True)
def healthy(hub):
    yield
    hub.faults.clear()
    hub.rate = hub.total = 0.0
    hub.requests.clear()
    hub.sent = 0


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def render_prompt(seed=1, see=False, **loader):
    """17 frames of 64×64 in two steps with MODEL and VAE of our loader, and its CLIP_VISION where `see`."""
    seen = {"clip_vision_output": ["see", 0], "pose_clip_vision_output": ["see", 0]} if see else {}
    prompt = {
        "loader": node("SteadyDancerLoader", **{"variant": "auto", "step_distill": False, **loader}),
        "clip": node("TinyUMT5Loader", clip_name="tiny_umt5.safetensors", type="wan"),
        "text": node("CLIPTextEncode", clip=["clip", 0], text="a woman dances"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x4080C0),
        "poses": node("EmptyImage", width=64, height=64, batch_size=17, color=0x103050),
        "see": node("CLIPVisionEncode", clip_vision=["loader", 2], image=["picture", 0], crop="none"),
        "condition": node(
            "SteadyDancerToVideo", positive=["text", 0], negative=["text", 0], vae=["loader", 3],
            start_image=["picture", 0], pose_video=["poses", 0], width=64, height=64, length=17, batch_size=1, **seen,
        ),
        "guider": node(
            "SteadyDancerGuider", model=["loader", 0], positive=["condition", 0], negative=["condition", 1],
            pose_negative=["condition", 2], cfg=1.0, pose_cfg=0.0, start=0.1, end=0.4,
        ),
        "noise": node("RandomNoise", noise_seed=seed),
        "solver": node("SteadyDancerFlowUniPC"),
        "schedule": node("SteadyDancerSchedule", steps=2, shift=5.0),
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["solver", 0],
            sigmas=["schedule", 0], latent_image=["condition", 3],
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["loader", 3]),
        "video": node("CreateVideo", images=["decode", 0], fps=16.0),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="loaders", format="auto", codec="auto"),
    }  # fmt: skip
    if not see:
        del prompt["see"]
    return prompt


def model_only(**loader):
    """Only MODEL of the loader is linked."""
    return {
        "loader": node("SteadyDancerLoader", **{"variant": "auto", "step_distill": False, **loader}),
        "see": node("PreviewAny", source=["loader", 4]),
    }


def remove_models(server, *names):
    for name in names:
        for path in (server.base_directory / "models").rglob(name + "*"):
            path.unlink()
    forget(server)


def forget(server):
    """Unloads everything. The answer comes before the work, and a prompt in between would still find its cache."""
    server.free()
    time.sleep(0.5)


ALL = ("Wan21_I2V_SteadyDancer_fp16", "wan_2.1_vae", "clip_vision_h", "umt5_xxl_fp16", "lightx2v")


def test_a_bare_folder_downloads_and_renders_and_then_asks_nothing(server, hub, start_comfy):
    remove_models(server, *ALL)
    with server.events() as events:
        result = server.succeed(render_prompt(see=True))
    assert [file.suffix for file in result.files] == [".mp4"] and result.files[0].stat().st_size > 1000
    asked = " ".join(path for _, _, path, _ in hub.requests)
    for name in ("Wan21_I2V_SteadyDancer_fp16", "wan_2.1_vae", "clip_vision_h"):
        assert name in asked
    assert "umt5" not in asked and "lightx2v" not in asked  # nothing uses them
    begun = [text for _, text in events.texts if text.startswith("Downloading")]
    assert len(begun) == 3
    for number, (text, name) in enumerate(
        zip(begun, ("Wan21_I2V_SteadyDancer_fp16", "clip_vision_h", "wan_2.1_vae")), 1
    ):
        assert text.startswith(f"Downloading {number} of 3: {name}")
    assert {name for name, _ in events.texts} >= {"loader"}

    hub.requests.clear()
    forget(server)
    assert server.succeed(render_prompt(seed=2)).files
    assert hub.requests == []

    offline = start_comfy(
        variables={"HF_ENDPOINT": hub.endpoint, "STEADYDANCER_VARIANT": "fp16", "HF_HUB_OFFLINE": "1"}
    )
    for name in ("diffusion_models", "vae", "clip_vision", "text_encoders"):
        target = offline.base_directory / "models" / name
        target.mkdir(parents=True, exist_ok=True)
        for path in (server.base_directory / "models" / name).iterdir():
            (target / path.name).symlink_to(path)
    assert offline.succeed(render_prompt(seed=3, see=True)).files
    error = offline.run(model_only(step_distill=True)).error
    assert "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors is not here" in error
    assert "models/loras" in error and "0.7 GB" in error
    assert hub.requests == []
    offline.stop()


def test_parts_that_are_linked_later_work(server, hub):
    remove_models(server, *ALL)
    assert server.succeed(model_only()).outputs["see"]["text"][0].strip('"') == "steadydancer/fp16"
    assert not any("wan_2.1_vae" in path or "umt5" in path for _, _, path, _ in hub.requests)
    prompt = render_prompt(seed=4)
    prompt["ours"] = node("CLIPTextEncode", clip=["loader", 1], text="a woman dances")
    prompt["see_ours"] = node("PreviewAny", source=["ours", 0])
    result = server.succeed(prompt)
    assert "loader" in result.cached  # linking more of it does not load the model again
    assert result.files and result.outputs["see_ours"]
    assert any("umt5_xxl_fp16" in path for _, _, path, _ in hub.requests)


def test_cancel_ends_a_download_and_the_next_prompt_resumes_it(server, hub):
    remove_models(server, *ALL)
    hub.rate = 2e6
    size = (hub.root / FP16).stat().st_size
    with server.events() as events:
        prompt_id = server.queue(model_only())
        events.wait_for("progress_text", lambda data: " of " in data["text"])
        time.sleep(0.5)
        server.interrupt(prompt_id)
        result = server.wait(prompt_id, 30)
        kept = "Cancelled. What was fetched is kept, and the next run goes on from there."
        events.wait_for("progress_text", lambda data: data["text"] == kept)
    assert result.interrupted and events.texts[-1][1] == kept
    assert not list((server.base_directory / "models").rglob("Wan21_I2V_SteadyDancer_fp16.safetensors"))
    time.sleep(1.0)  # the hub notices that nobody listens
    hub.rate, hub.sent = 0.0, 0
    server.succeed(model_only())
    assert 0 < hub.sent < size


def test_faults_are_told_in_words_and_keep_no_secret(server, hub):
    remove_models(server, *ALL)
    hub.faults["Wan21_I2V_SteadyDancer_fp16.safetensors"] = Fault(statuses=(403,) * 99)
    result = server.run(model_only())
    assert "needs an account that may download it" in result.error
    hub.faults.clear()
    server.succeed(render_prompt(seed=5))
    assert any(headers.get("authorization") == f"Bearer {CANARY}" for _, _, _, headers in hub.asked("hub"))
    for text in (server.log(), str(server.get("/history")), str(result.history)):
        assert CANARY not in text and "Signature" not in text


def test_a_truncated_file_is_fetched_again(server, hub):
    server.succeed(model_only())
    (path,) = (server.base_directory / "models").rglob("Wan21_I2V_SteadyDancer_fp16.safetensors")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    forget(server)
    with server.events() as events:
        server.succeed(model_only())
    assert path.read_bytes() == whole
    assert any("is cut short: fetching it again" in text for _, text in events.texts)


SMALL_DISK = """
import os, shutil
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**8, 0, int(os.environ["FREE"]))
"""


def test_a_template_that_does_not_fit_is_refused_before_a_byte(hub, start_comfy, tmp_path):
    """Model and VAE of one loader: there is room for the model only."""
    (tmp_path / "sitecustomize.py").write_text(SMALL_DISK)
    free = (hub.root / FP16).stat().st_size + 2_000_000 + 1
    variables = {"HF_ENDPOINT": hub.endpoint, "STEADYDANCER_VARIANT": "fp16", "FREE": str(free)}
    server = start_comfy(variables={**variables, "PYTHONPATH": str(tmp_path)})
    tiny.provide(server.base_directory / "models", "text_encoders/tiny_umt5.safetensors")
    result = server.run(render_prompt())
    assert "Not enough disk space for 2 files: it needs" in result.error and "are left free for the run" in result.error
    assert hub.sent == 0
    server.succeed(model_only())


def test_step_distill_adds_the_lora(server, hub):
    remove_models(server, "lightx2v")
    assert server.succeed(render_prompt(seed=6, step_distill=True)).files
    assert (server.base_directory / "models" / "loras" / LORA.rsplit("/", 1)[-1]).is_file()


def test_download_node_is_a_prompt_by_itself(server, hub):
    remove_models(server, "wan_2.1_vae", "lightx2v")
    prompt = {"get": node("SteadyDancerDownload", names="wan-2.1-vae,\nlightx2v-i2v-480p-rank64")}
    report = server.succeed(prompt).outputs["get"]["text"][0]
    assert "wan_2.1_vae.safetensors" in report and "2 files, all here and checked" in report
    remove_models(server, "wan_2.1_vae")
    server.succeed(prompt)  # a file that was taken away is noticed
    assert list((server.base_directory / "models").rglob("wan_2.1_vae.safetensors"))
    from support.client import Refused

    with pytest.raises(Refused, match="Did you mean steadydancer"):
        server.queue({"get": node("SteadyDancerDownload", names="steadydancr")})


def test_download_node_fetches_what_a_workflow_names(server, hub):
    """Its own, as the page sends it or as the prompt itself; a saved one; a template."""
    vae, lora = "models/vae/wan_2.1_vae.safetensors", f"models/loras/{LORA.rsplit('/', 1)[-1]}"
    entry = {"name": "wan_2.1_vae.safetensors", "directory": "vae"}
    entry["url"] = f"https://huggingface.co/{SHARED.replace('/split', '/resolve/main/split')}/vae/{entry['name']}"
    graph = {"nodes": [{"type": "VAELoader", "properties": {"models": [entry]}}]}
    wanted = node("SteadyDancerDownload", names="", workflow="this")

    remove_models(server, "wan_2.1_vae", "lightx2v")
    report = server.succeed({"get": wanted}, workflow=graph).outputs["get"]["text"][0]
    assert "1 files, all here and checked" in report and (server.base_directory / vae).is_file()

    remove_models(server, "wan_2.1_vae", "lightx2v")
    loader = node("LoraLoaderModelOnly", model=["none", 0], lora_name=LORA.rsplit("/", 1)[-1], strength_model=1.0)
    server.succeed({"get": wanted, "unused": loader})
    assert (server.base_directory / lora).is_file() and not (server.base_directory / vae).exists()

    saved = server.base_directory / "user/default/workflows/mine/my dance.json"
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.write_text(json.dumps(graph), "utf-8")
    server.succeed({"get": node("SteadyDancerDownload", names="", workflow="mine/my dance.json")})
    assert (server.base_directory / vae).is_file()
    outside = server.run({"get": node("SteadyDancerDownload", names="", workflow="../../../outside.json")})
    assert "There is no template" in outside.error
    foreign = {**entry, "name": "x.safetensors", "url": "https://example.com/x.safetensors"}
    saved.write_text(
        json.dumps({"nodes": [*graph["nodes"], {"type": "X", "properties": {"models": [foreign]}}]}), "utf-8"
    )
    refused = server.run({"get": node("SteadyDancerDownload", names="", workflow="mine/my dance")})
    assert "1 files are here. Not fetched: x.safetensors is at 'https://example.com" in refused.error


def test_a_gguf_variant_is_fetched_and_renders(server, hub, tmp_path):
    name = "Wan21_I2V_SteadyDancer_fp16-Q4_K_M_fix_5d_tensor.gguf"
    hub.put("MCG-NJU/SteadyDancer-GGUF", name, write_steadydancer_gguf(tmp_path / name, "Q4_K").read_bytes())
    result = server.run(render_prompt(variant="steadydancer/Q4_K_M"))
    assert result.error is None, result.error
    assert (server.base_directory / "models/diffusion_models" / name).is_file()


@pytest.mark.parametrize("kind", ["F16", "BF16", *BY_NAME])
def test_every_gguf_type_renders_from_a_file_on_disk(server, hub, kind):
    name = f"mine/dancer-{kind}.gguf"
    write_steadydancer_gguf(server.base_directory / "models/diffusion_models" / name, kind)
    for loader in ("SteadyDancerLoader", "SteadyDancerCatalogLoader"):
        assert name in server.object_info(loader)[loader]["input"]["required"]["variant"][1]["options"]
    result = server.run(render_prompt(variant=name))
    assert result.error is None, result.error
    assert "sample" not in result.cached and result.files
    assert not hub.requests


def test_a_damaged_gguf_is_refused_in_words(server, hub):
    path = server.base_directory / "models/diffusion_models/cut.gguf"
    whole = write_steadydancer_gguf(path, "Q8_0").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    result = server.run(render_prompt(variant="cut.gguf"))
    assert "cut.gguf cannot be loaded, because it ends before the data of" in result.error


def test_shards_load_as_one_model(comfyui, tmp_path):
    import comfy.sd
    from steadydancer.loaders.build import load_diffusion

    tensors = tiny.weights("steadydancer_tiny.keys.tsv")
    keys = sorted(tensors)
    paths = [tmp_path / f"part-{i}.safetensors" for i in range(7)]
    for i, path in enumerate(paths):
        tiny.write(path, {key: tensors[key] for key in keys[i::7]})
    whole = comfy.sd.load_diffusion_model(str(tiny.write_steadydancer(tmp_path / "whole.safetensors", "bf16")))
    model = load_diffusion(paths)
    assert type(model.model) is type(whole.model)
    expected = whole.model_state_dict()
    found = model.model_state_dict()
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key].bfloat16(), expected[key].bfloat16()), key


def test_lazy_parts_are_real_and_try_again(comfyui):
    import comfy.model_patcher
    import comfy.sd
    from steadydancer.loaders.build import load_vae
    from steadydancer.loaders.lazy import LazyVAE

    (path,) = tiny.provide(comfyui / "models", "vae/wan_2.1_vae.safetensors")
    tries = []

    def load():
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("the network is down")
        return load_vae([path])

    vae = LazyVAE(load)
    comfy.model_patcher.PromptModelTracker().add([vae])  # what ComfyUI does with every result
    assert isinstance(vae, comfy.sd.VAE) and not tries
    with pytest.raises(RuntimeError, match="network is down"):
        vae.encode(torch.zeros(1, 32, 32, 3))
    latent = vae.encode(torch.zeros(1, 32, 32, 3))
    assert latent.shape[1] == 16 and len(tries) == 2
    assert vae.patcher.cached_patcher_init[1][0] == str(path)


def test_what_comfyui_counts_of_kept_results_loads_nothing(comfyui):
    """Its tracker asks every result for its models, when no node is being executed."""
    from comfy.model_patcher import PromptModelTracker, is_model_patcher_output
    from steadydancer.loaders.lazy import LazyCLIP, LazyClipVision, LazyVAE

    def load():
        raise AssertionError("this is no use")

    kept = [kind(load) for kind in (LazyCLIP, LazyClipVision, LazyVAE)]
    tracker = PromptModelTracker()
    tracker.start()
    tracker.add(kept)
    assert not tracker.models and not any(map(is_model_patcher_output, kept))


def test_what_a_variant_fetched_is_not_listed_as_a_persons_own(comfyui):
    from steadydancer.services.loading import own_files

    folder = comfyui / "models" / "diffusion_models"
    fetched = [f"SteadyDancer-14B/diffusion_pytorch_model-0000{i}-of-00007.safetensors" for i in (1, 7)]
    fetched += [
        "Wan21_I2V_SteadyDancer_fp16-Q4_K_M_fix_5d_tensor.gguf",
        "sorted/Wan21_I2V_SteadyDancer_fp16.safetensors",
    ]
    own = ["sorted/my-dancer-Q4_K_M.gguf", "OtherModel/diffusion_pytorch_model-00001-of-00007.safetensors"]
    for name in fetched + own:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    try:
        listed = own_files()
    finally:
        for name in fetched + own:
            (folder / name).unlink()
    assert set(own) <= set(listed) and not set(fetched) & set(listed)


def test_catalogue_loader_says_what_a_family_lacks(comfyui):
    from steadydancer.catalog.catalog import catalogue
    from steadydancer.services.loading import encoders

    _, clip_vision, _ = encoders(catalogue().variants["wan2.1/t2v-1.3b"])
    with pytest.raises(ValueError, match="has no image encoder"):
        clip_vision.encode_image(torch.zeros(1, 8, 8, 3))


def test_files_in_extra_model_paths_are_used_and_new_ones_go_to_the_folder_of_that_name(comfyui, tmp_path):
    import folder_paths
    from steadydancer.catalog.catalog import catalogue
    from steadydancer.loaders.build import ComfyPlaces

    vae, fp16 = catalogue().files["wan-2.1-vae"], catalogue().files["steadydancer-fp16"]
    extra = tmp_path / "shared" / "VAEs"
    (path,) = tiny.provide(tmp_path / "shared", "vae/" + vae.name)
    path = path.parent.rename(extra) / path.name
    folder_paths.add_model_folder_path("vae", str(extra), is_default=True)
    try:
        assert ComfyPlaces().find(vae) == path
        assert ComfyPlaces().target(vae).parent == extra, "is_default: new files go there"
    finally:
        folder_paths.folder_names_and_paths["vae"][0].remove(str(extra))
    assert ComfyPlaces().target(fp16).parent.name == "diffusion_models"
