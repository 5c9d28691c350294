"""The planner in a running ComfyUI: plan → loader → render → report, what does not fit, and running out of memory."""

import json

import pytest
from support import tiny

PHASES = ["text_encode", "image_encode", "vae_encode", "sample", "vae_decode"]


@pytest.fixture(scope="module")
def server(start_comfy):
    server = start_comfy(variables={"HF_HUB_OFFLINE": "1"})
    models = server.base_directory / "models"
    tiny.write_steadydancer(models / "diffusion_models" / "Wan21_I2V_SteadyDancer_fp16.safetensors", "fp16")
    tiny.write_vae(models / "vae" / "wan_2.1_vae.safetensors")
    tiny.write_t5_base(models / "text_encoders" / "umt5_xxl_fp16.safetensors")
    tiny.provide(models, "text_encoders/tiny_umt5.safetensors", "clip_vision/clip_vision_h.safetensors")
    return server


@pytest.fixture(autouse=True)
def no_calibration(server):
    yield
    calibration_file(server).unlink(missing_ok=True)


def calibration_file(server):
    return server.base_directory / "user" / "__steadydancer" / "vram_calibration.json"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def planner(**inputs):
    usual = {
        "variant": "steadydancer/fp16", "width": 64, "height": 64, "frames": 17, "steps": 2, "guidance": "text",
        "step_distill": False, "lora": "none", "gpu": "this one", "reserve": 0.0,
    }  # fmt: skip
    return node("SteadyDancerVRAMPlanner", **{**usual, **inputs})


def planned(**inputs):
    """Planner and loader, and the plan shown."""
    return {
        "planner": planner(**inputs),
        "loader": node("SteadyDancerLoader", variant=["planner", 1], step_distill=False, plan=["planner", 0]),
        "plan": node("PreviewAny", source=["planner", 0]),
    }


def render(seed=1, failing=None, times=1, mark="", **inputs):
    """17 frames of 64×64 in two steps. `failing` is a phase that runs out of memory the first `times` times."""
    outputs = {"text_encode": 1, "image_encode": 2, "vae_encode": 3, "sample": 0, "vae_decode": 3}
    at = {phase: ["loader", output] for phase, output in outputs.items()}
    prompt = planned(**inputs)
    if failing:
        prompt["fail"] = node("RunsOutOfMemory", value=at[failing], phase=failing, times=times, mark=mark)
        at[failing] = ["fail", 0]
    return prompt | {
        "ours": node("CLIPTextEncode", clip=at["text_encode"], text="a woman dances"),
        "shown": node("PreviewAny", source=["ours", 0]),
        "clip": node("TinyUMT5Loader", clip_name="tiny_umt5.safetensors", type="wan"),
        "text": node("CLIPTextEncode", clip=["clip", 0], text="a woman dances"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x4080C0),
        "poses": node("EmptyImage", width=64, height=64, batch_size=17, color=0x103050),
        "see": node("CLIPVisionEncode", clip_vision=at["image_encode"], image=["picture", 0], crop="none"),
        "condition": node(
            "SteadyDancerToVideo", positive=["text", 0], negative=["text", 0], vae=at["vae_encode"],
            start_image=["picture", 0], pose_video=["poses", 0], width=64, height=64, length=17, batch_size=1,
            clip_vision_output=["see", 0], pose_clip_vision_output=["see", 0],
        ),
        "sample": node(
            "KSampler", model=at["sample"], seed=seed, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple",
            positive=["condition", 0], negative=["condition", 1], latent_image=["condition", 3], denoise=1.0,
        ),
        "frames": node("VAEDecode", samples=["sample", 0], vae=at["vae_decode"]),
        "save": node("SaveImage", images=["frames", 0], filename_prefix="planned"),
        "report": node("SteadyDancerVRAMReport", plan=["planner", 0], after=["frames", 0]),
    }  # fmt: skip


def plan_of(done):
    return json.loads(done.outputs["plan"]["text"][0])


def test_plan_loader_render_report(server):
    done = server.run(render())
    assert done.error is None, done.error
    plan = plan_of(done)
    assert plan["verdict"] == "fits" and plan["job"]["variant"] == "steadydancer/fp16" and plan["card"]["sm"] == 0
    assert len(done.outputs["save"]["images"]) == 17
    report = done.outputs["report"]["text"][0].splitlines()
    phases = [line.partition(":")[0].split()[0] for line in report]
    assert phases == ["encoding", "encoding", "encoding", "sampling", "decoding"]
    assert json.loads(calibration_file(server).read_text("utf-8")) == [], "without a GPU nothing is learned"


def test_the_same_prompt_twice_keeps_the_model(server):
    before = plan_of(server.run(render(seed=2)))
    done = server.run(render(seed=3))
    assert done.error is None, done.error
    assert "sample" not in done.cached and plan_of(done) == before
    assert {"planner", "loader"} <= set(done.cached)


def test_a_plan_that_cannot_fit_stops_before_loading(server):
    done = server.run(render(reserve=1000.0))
    assert done.messages["execution_error"]["node_type"] == "SteadyDancerLoader"
    message = done.error
    assert message.startswith("It does not fit even with every saving:") and "has 0.0 GB for it" in message
    assert "can do it, at about $" in message
    assert "loader" not in done.messages["execution_error"]["executed"]


@pytest.mark.parametrize(
    ("inputs", "loader", "what"),
    [
        ({"gpu": "RTX 4090"}, {}, "The plan is for RTX 4090, and this is this computer."),
        (
            {},
            {"variant": "steadydancer/fp8"},
            "The plan is for steadydancer/fp16, and steadydancer/fp8 is to be loaded.",
        ),
    ],
)
def test_a_plan_for_something_else_is_refused(server, inputs, loader, what):
    prompt = render(**inputs)
    prompt["loader"]["inputs"].update(loader)
    done = server.run(prompt)
    assert done.messages["execution_error"]["node_type"] == "SteadyDancerLoader" and what in done.error


@pytest.mark.parametrize("phase", PHASES)
def test_running_out_of_memory_is_explained_and_the_next_run_succeeds(server, phase):
    # ComfyUI itself rescues the first failure of the VAE, with tiles; the second is the one that gets out.
    times = 2 if phase.startswith("vae") else 1
    failed = server.run(render(failing=phase, times=times, mark=f"fails {phase}"))
    assert failed.error is not None
    message = failed.error
    doing = {"text_encode": "encoding the text", "image_encode": "encoding the picture", "vae_encode": "encoding the video",
             "sample": "sampling", "vae_decode": "decoding the video"}[phase]  # fmt: skip
    assert message.startswith(f"Out of memory while {doing}: the plan gave it")
    assert "Run it again" in message and "leaves more room" in message
    before = next(p for p in plan_of(failed)["phases"] if p["name"] == phase)
    again = server.run(render(failing=phase, times=times, mark=f"fails {phase}"))
    assert again.error is None, again.error
    after = next(p for p in plan_of(again)["phases"] if p["name"] == phase)
    assert after["activations"] == pytest.approx(1.25 * before["activations"], rel=0.01)


def test_a_decode_that_comfyui_rescued_is_reported(server):
    done = server.run(render(failing="vae_decode", times=1, mark="rescued"))
    assert done.error is None, done.error
    assert "decoding the video" in done.outputs["report"]["text"][0]
    assert "in tiles, because whole frames did not fit" in done.outputs["report"]["text"][0]
    (noted,) = json.loads(calibration_file(server).read_text("utf-8"))
    assert (
        noted["ran_out"] and noted["kind"].startswith("steadydancer/fp32/0.30.0/") and noted["gpu"] == "this computer"
    )


def test_an_encode_that_comfyui_rescued_is_reported(server):
    done = server.run(render(failing="vae_encode", times=1, mark="rescued encode"))
    assert done.error is None, done.error
    (line,) = [line for line in done.outputs["report"]["text"][0].splitlines() if line.startswith("encoding the video")]
    assert "in tiles, because whole frames did not fit" in line
    (noted,) = json.loads(calibration_file(server).read_text("utf-8"))
    assert noted["ran_out"] and noted["phase"] == "vae_encode"


def test_the_chart_and_the_tile(server):
    variant = "steadydancer/Q4_K_M"  # auto would take the tiny fp16 file, whose blocks all stay on the card
    prompt = {
        "planner": planner(variant=variant, width=832, height=480, frames=81, gpu="RTX 4060"),
        "chart": node("SaveImage", images=["planner", 4], filename_prefix="chart"),
        "tile": node("PreviewAny", source=["planner", 5]),
        "fits": node("PreviewAny", source=["planner", 2]),
        "report": node("PreviewAny", source=["planner", 3]),
    }
    done = server.run(prompt)
    assert done.error is None, done.error
    assert done.outputs["tile"]["text"] == ["832"] and done.outputs["fits"]["text"] == ["True"]
    assert "blocks stay on the card" in done.outputs["report"]["text"][0]
    assert done.outputs["chart"]["images"] and done.outputs["planner"]["images"]


def test_a_plan_of_nonsense_is_refused(server):
    done = server.run({"report": node("SteadyDancerVRAMReport", plan="not a plan", after="x")})
    assert "This input is not a plan. Connect the plan output of VRAM Budget Planner." in done.error


USUAL = planner(variant="steadydancer/fp8", width=832, height=480, frames=81)["inputs"]


@pytest.fixture
def nodes(comfyui, monkeypatch, tmp_path):
    """The planner's module in this process, as on an RTX 4090 with RAM and disk enough, and a calibration of its own."""
    from steadydancer.machine import gpus
    from steadydancer.nodes import planner as module
    from steadydancer.planning.calibration import Calibration
    from steadydancer.planning.solve import Host
    from steadydancer.services import loading, this_machine

    monkeypatch.setattr(this_machine, "present_card", lambda: gpus.card("RTX 4090"))
    monkeypatch.setattr(this_machine, "host", lambda: Host(ram=64 * 10**9, disk=10**12))
    monkeypatch.setattr(
        this_machine, "calibration", lambda: Calibration(tmp_path / "vram_calibration.json", "0.30.0/pytorch")
    )
    monkeypatch.setattr(loading, "finder", lambda: lambda name: None)
    return module


def test_a_models_folder_that_is_not_there_yet(comfyui, monkeypatch, tmp_path):
    import folder_paths
    from steadydancer.services import this_machine

    there = this_machine.host().disk
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "none" / "models"))
    assert this_machine.host().disk == pytest.approx(there, rel=0.1)


def test_only_what_the_plan_decides_loads_the_model_again(nodes, monkeypatch, tmp_path):
    from steadydancer.planning.calibration import Measurement
    from support.safetensors_header import write_hollow

    def decided(**inputs):
        return nodes.SteadyDancerVRAMPlanner.fingerprint_inputs(**{**USUAL, **inputs})

    def measured(ratio, **more):
        run = Measurement("sample", "steadydancer/bf16/0.30.0/pytorch", "RTX 4090", 1, 10**9, int(ratio * 1e9), **more)
        nodes.this_machine.calibration().add([run])

    before = decided()
    layer = {f"blocks.{i}.ffn.0.weight": ("F8_E4M3", (400_000_000,), 400_000_000) for i in range(40)}
    here = write_hollow(tmp_path / "here.safetensors", layer | {"head": ("F16", (250_000_000,), 500_000_000)})
    monkeypatch.setattr(nodes.loading, "finder", lambda: lambda name: here)
    assert nodes.SteadyDancerVRAMPlanner.plan(**USUAL).disk == 0
    assert decided() == before, "it was fetched meanwhile"
    measured(1.05)
    assert nodes.SteadyDancerVRAMPlanner.plan(**USUAL).calibrated
    assert decided() == before, "a few per cent more were measured"
    measured(1.25, ran_out=True)
    assert decided() != before, "it ran out of memory"
    assert decided(gpu="H100") != before and decided(width=None) == decided(width=832)


@pytest.mark.parametrize("hundredths", range(50, 175, 15))
def test_running_out_of_memory_always_makes_a_new_plan(nodes, hundredths):
    from steadydancer.loaders.run import RAN_OUT
    from steadydancer.planning.calibration import Measurement

    planner = nodes.SteadyDancerVRAMPlanner
    usual, ratio = {**USUAL, "gpu": "H100"}, hundredths / 100

    def measured(phase, ratio, ran_out=False):
        kind = "steadydancer/bf16/0.30.0/pytorch"
        return Measurement(phase, kind, "H100", 1, 10**9, round(ratio * 1e9), ran_out)

    nodes.this_machine.calibration().add([measured("vae_decode", ratio)] * 3)
    before = planner.fingerprint_inputs(**usual)
    assert planner.plan(**usual).phase("vae_decode").correction == ratio
    nodes.this_machine.calibration().add([measured("vae_decode", RAN_OUT * ratio, ran_out=True)])
    assert planner.fingerprint_inputs(**usual) != before


def test_a_block_more_in_ram_does_not_load_the_model_again(nodes):
    from steadydancer.planning.calibration import Measurement

    planner, usual = nodes.SteadyDancerVRAMPlanner, {**USUAL, "gpu": "RTX 4080 SUPER"}
    before, decided = planner.plan(**usual), planner.fingerprint_inputs(**usual)
    run = Measurement("sample", "steadydancer/bf16/0.30.0/pytorch", "RTX 4080 SUPER", 1, 10**9, 1_100_000_000)
    nodes.this_machine.calibration().add([run])
    assert planner.plan(**usual).kept < before.kept < before.blocks
    assert planner.fingerprint_inputs(**usual) == decided


def test_what_stands_for_a_linked_input_is_its_default(nodes):
    schema = nodes.SteadyDancerVRAMPlanner.define_schema()
    assert nodes.USUAL == {entry.id: entry.default for entry in schema.inputs}


def test_what_the_model_usually_takes(nodes, tmp_path, monkeypatch):
    import folder_paths
    from support.safetensors_header import write_hollow

    def job(**inputs):
        return nodes.SteadyDancerVRAMPlanner.plan(**{**USUAL, "steps": 0, "guidance": "usual", **inputs}).job

    assert (job().steps, job().branches) == (40, 3)
    distilled = job(step_distill=True)
    assert (distilled.steps, distilled.branches) == (4, 1) and distilled.lora_bytes > 7e8
    turbo = job(variant="turbowan2.1-t2v-1.3b-480p/int8")
    assert (turbo.steps, turbo.branches) == (4, 1)
    own = write_hollow(tmp_path / "own.safetensors", {"a.lora_down.weight": ("F32", (64, 5120), 1_310_720)})
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(own))
    assert job(lora="own.safetensors").lora_bytes == 655_360
    assert job(lora="own.safetensors", step_distill=True).lora_bytes == distilled.lora_bytes + 655_360
