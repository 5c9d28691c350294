"""Converted files in our loader, in core's, and under everything that a MODEL goes through: LoRA, offload, windows, compile."""

import pytest
import torch
from steadydancer.convert.recipe import TARGETS
from steadydancer.convert.source import open_source
from steadydancer.convert.write import convert
from support import tiny
from support.evaluation import loaded, relative, velocity
from support.golden import Golden
from support.safetensors_header import write_hollow

# Error of one evaluation against float32; int8 and fp8 of the layers' weights, int8 of their inputs too.
LARGEST = {"int8_convrot": 0.012, "fp8_scaled": 0.06, "bf16": 0.006, "fp16": 0.002}


@pytest.fixture(scope="module")
def golden():
    return Golden()


@pytest.fixture(scope="module")
def paths(comfyui):
    """Format → file, made of the tiny float32 one."""
    folder = comfyui / "models/diffusion_models"
    source = open_source(tiny.write_steadydancer(folder / "converted_fp32.safetensors", "fp32"))
    return {
        to: convert(source, folder / f"converted_{to}.safetensors", to, lambda *_: None, lambda: False).path
        for to in TARGETS
    }


@pytest.fixture
def model(paths):
    return load(paths["int8_convrot"])


def load(path, **options):
    from steadydancer.loaders.build import load_one

    return load_one(str(path), **options)


@pytest.mark.parametrize("to", TARGETS)
def test_every_format_computes_what_float32_does_and_core_loads_it_too(paths, golden, to):
    from comfy.quant_ops import QuantizedTensor

    import nodes

    ours = velocity(load(paths[to]), golden)
    (model,) = nodes.UNETLoader().load_unet(paths[to].name, "default")
    network = model.model.diffusion_model
    assert type(model.model).__name__ == "SteadyDancerBase" and torch.equal(velocity(model, golden), ours)
    error = relative(ours, golden.numbers["out.noise_pred"][None])
    print(f"{to:14} error against float32 {error:.4%}")
    assert 0 < error < LARGEST[to]
    quantised = to in ("int8_convrot", "fp8_scaled")
    for name, parameter in network.named_parameters():
        in_block = name.startswith("blocks.") and name.endswith(".weight") and parameter.ndim == 2
        assert isinstance(parameter.data, QuantizedTensor) is (quantised and in_block), name
        if name.startswith(("condition_embedding_", "patch_embedding")):
            assert parameter.dtype == torch.float32 and torch.equal(
                parameter, tiny.weights("steadydancer_tiny.keys.tsv")[name]
            )
    weight = network.blocks[0].ffn[2].weight
    if to == "int8_convrot":
        assert weight._qdata.dtype == torch.int8 and weight._params.convrot and weight._params.convrot_groupsize == 256


def test_a_plain_wan_model_is_converted_and_loaded(comfyui, golden):
    folder = comfyui / "models/diffusion_models"
    source = tiny.write_wan_i2v(folder / "wan2.1_i2v_480p_14B_fp16.safetensors")
    path = convert(
        open_source(source), folder / "wan_int8_convrot.safetensors", "int8_convrot", lambda *_: None, lambda: False
    ).path
    exact, found = load(source), load(path)
    assert type(found.model).__name__ == "WAN21"
    inputs = {key: value for key, value in golden.network_inputs().items() if key in ("context", "clip_fea")}
    x = golden.network_inputs()["x"]
    with torch.inference_mode():
        out = [m.model.diffusion_model(x, torch.full((1,), 731.0), **inputs).float() for m in (exact, found)]
    assert 0 < relative(out[1], out[0]) < 0.015


def lora_of(comfyui, rank=4):
    import comfy.utils

    return comfy.utils.load_torch_file(
        str(tiny.write_lora(comfyui / f"models/loras/converted-{rank}.safetensors", rank))
    )


def dense_twin(path, lora, strength):
    """The file's network with its weights unpacked into ordinary ones, and the LoRA added to them."""
    from comfy.quant_ops import QuantizedTensor

    twin = load(path).model.diffusion_model
    for name, module in twin.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or not isinstance(weight.data, QuantizedTensor):
            continue
        dense = weight.data.to(torch.float32).dequantize()
        layer = f"diffusion_model.{name}"
        if f"{layer}.lora_up.weight" in lora:
            dense = dense + strength * lora[f"{layer}.lora_up.weight"] @ lora[f"{layer}.lora_down.weight"]
        module.weight, module.layout_type = torch.nn.Parameter(dense, requires_grad=False), None
    return twin


@pytest.mark.parametrize("to", ["int8_convrot", "fp8_scaled"])
def test_lora_equals_lora_on_the_unpacked_model_within_the_formats_error(comfyui, paths, golden, to):
    """ComfyUI adds a LoRA to the numbers and quantises them again."""
    import comfy.sd

    model, lora = load(paths[to]), lora_of(comfyui)
    plain = velocity(loaded(model), golden)
    patched = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0)[0]
    found = velocity(loaded(patched), golden)
    expected = velocity(model, golden, dense_twin(paths[to], lora, 0.7))
    print(
        f"{to}: with the LoRA {relative(found, expected):.3%} off, the LoRA itself changes {relative(found, plain):.1%}"
    )
    assert relative(found, plain) > 0.05
    assert relative(found, expected) < 1.5 * LARGEST[to]
    layer = model.model.diffusion_model.blocks[0].self_attn.q
    assert to != "int8_convrot" or layer.weight._params.convrot
    assert torch.equal(velocity(loaded(model), golden), plain)  # the model itself is as it was


def test_partly_offloaded_it_computes_the_same(comfyui, paths, golden):
    import comfy.sd

    model = load(paths["int8_convrot"], disable_dynamic=True)
    whole = velocity(loaded(model), golden)
    model.detach()
    model.patch_model(torch.device("cpu"), lowvram_model_memory=model.model_size() // 2)
    assert model.model.model_lowvram and torch.equal(velocity(model, golden), whole)
    model.partially_unload(torch.device("cpu"), model.model_size())
    assert torch.equal(velocity(model, golden), whole)
    model.detach()
    patched = comfy.sd.load_lora_for_models(model, None, lora_of(comfyui), 0.7, 0)[0]
    with_lora = velocity(loaded(patched), golden)
    patched.detach()
    patched.patch_model(torch.device("cpu"), lowvram_model_memory=model.model_size() // 2)
    assert patched.model.model_lowvram
    # a layer that waits in RAM gets its LoRA in plain numbers, which are not quantised again
    assert relative(velocity(patched, golden), with_lora) < LARGEST["int8_convrot"]
    patched.detach()


def test_no_more_than_planned_is_put_on_the_card(model, paths):
    from dataclasses import replace

    from steadydancer.loaders import placement
    from steadydancer.loaders.run import PlannedRun
    from steadydancer.machine import gpus
    from steadydancer.planning.job import job_for
    from steadydancer.planning.planner import plan_job

    path = paths["int8_convrot"]
    plan = plan_job(job_for(str(path), 64, 64, 17, branches=2, steps=2), gpus.card("RTX 4090"), lambda name: path)
    assert plan.blocks == 2
    limit = model.model_size() // 2
    model = placement.placed(load(path, disable_dynamic=True), PlannedRun(replace(plan, kept=1, resident=limit)))
    model.load(torch.device("cpu"), lowvram_model_memory=0)
    assert 0 < model.loaded_size() <= limit
    model.detach()


@pytest.mark.parametrize("patched", [False, True], ids=["plain", "with a LoRA"])
def test_torch_compile_gives_the_same(comfyui, model, golden, patched):
    import comfy.sd

    if patched:
        model = comfy.sd.load_lora_for_models(model, None, lora_of(comfyui), 0.7, 0)[0]
    network = loaded(model).model.diffusion_model
    plain = velocity(model, golden)
    torch._dynamo.reset()
    original, network.blocks[0] = network.blocks[0], torch.compile(network.blocks[0], backend="aot_eager")
    assert relative(velocity(model, golden), plain) < 1e-4
    network.blocks[0] = original


def test_context_windows_and_the_guider(model, golden):
    import comfy.context_windows as windows
    import comfy.samplers
    from steadydancer.dancer.guidance import SteadyDancerGuider
    from steadydancer.dancer.sampling import steadydancer_sigmas

    def latent(name, frames):
        return tiny.recipe_input(name, 1, (1, 16, frames, 4, 4))

    frames = 31
    mask = torch.ones(1, 1, frames, 4, 4)
    mask[:, :, 0] = 0
    condition = {"concat_latent_image": latent("image", frames), "concat_mask": mask}
    condition["pose_video_latent"] = latent("pose", frames)
    text = tiny.recipe_input("text", 1, (1, 512, 4096), 0.3)

    def sampled(model):
        windowed = model.clone()
        windowed.model_options["context_handler"] = windows.IndexListContextHandler(
            windows.get_matching_context_schedule("standard_static"),
            windows.get_matching_fuse_method("pyramid"),
            context_length=21,
            context_overlap=7,
            dim=2,
        )
        windows.create_prepare_sampling_wrapper(windowed)
        guide = SteadyDancerGuider(windowed)
        guide.set_conds([[text, condition]], [[text, condition]])
        guide.set_cfg(1.0)
        guide.set_pose_guidance(None, 0.0, 0.0, 0.0)
        noise, sigmas = latent("noise", frames), steadydancer_sigmas(2, 5.0)
        sampler = comfy.samplers.sampler_object("euler")
        return guide.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0)

    exact = load(model.cached_patcher_init[1][0].replace("int8_convrot", "fp32"))
    out = sampled(model)
    assert out.shape == (1, 16, frames, 4, 4) and relative(out, sampled(exact)) < 0.02


def test_dynamic_vram_takes_the_files_own_bytes(model, monkeypatch):
    """What ComfyUI does with a quantised tensor's page: gathered, read back, the same numbers."""
    import comfy.memory_management

    weight = model.model.diffusion_model.blocks[0].ffn[0].weight.data
    page = torch.zeros(comfy.memory_management.vram_aligned_size([weight]), dtype=torch.uint8)
    (copy,) = comfy.memory_management.interpret_gathered_like([weight], page)
    for mine, its in zip((copy._qdata, copy._params.scale), (weight._qdata, weight._params.scale), strict=True):
        mine.copy_(its)
    assert torch.equal(copy.dequantize(), weight.dequantize())


def node(source: str) -> dict:
    inputs = {"source": source, "to": "int8_convrot"}
    return {"1": {"class_type": "SteadyDancerConvertModel", "inputs": inputs}}


def test_the_node_makes_a_file_once_and_again_when_it_was_taken_away(comfy_server):
    folder = comfy_server.base_directory / "models/diffusion_models"
    tiny.write_steadydancer(folder / "sub" / "my_dancer_bf16.safetensors", "bf16")
    target, prompt = folder / "sub" / "my_dancer_int8_convrot.safetensors", node("sub/my_dancer_bf16.safetensors")
    (shown,) = comfy_server.succeed(prompt).outputs.values()
    assert str(target) in shown["text"][0] and "tensors changed, the most by" in shown["text"][0]
    comfy_server.succeed(prompt)  # the file is there now: looked at once more, and not made again
    assert (
        comfy_server.succeed(prompt).cached == ["1"]
        and comfy_server.log().count("my_dancer_int8_convrot.safetensors is made") == 1
    )
    target.unlink()
    assert (
        "tensors changed" in next(iter(comfy_server.succeed(prompt).outputs.values()))["text"][0] and target.is_file()
    )


def test_the_loader_makes_its_variant_of_the_file_that_is_here(comfy_server):
    comfy_server.provide_models("diffusion_models/Wan21_I2V_SteadyDancer_fp16.safetensors")
    target = comfy_server.base_directory / "models/diffusion_models/Wan21_I2V_SteadyDancer_int8_convrot.safetensors"
    target.unlink(missing_ok=True)
    inputs = {"variant": "steadydancer/int8_convrot", "step_distill": False}
    prompt = {
        "1": {"class_type": "SteadyDancerLoader", "inputs": inputs},
        "2": {
            "class_type": "SteadyDancerConvertModel",
            "inputs": {"source": "steadydancer/fp16", "to": "int8_convrot"},
        },
        "3": {"class_type": "ModelSamplingSD3", "inputs": {"model": ["1", 0], "shift": 5.0}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    outputs = comfy_server.succeed(prompt).outputs
    assert target.is_file() and outputs["5"]["text"] == ["steadydancer/int8_convrot"]


def test_cancel_leaves_no_trace(comfy_server):
    """A file of 1.6 GB, all of it a hole, so that the conversion is long enough to be cancelled."""
    folder = comfy_server.base_directory / "models/diffusion_models"
    large = {
        f"blocks.{n}.{layer}.weight": ("F16", (5120, 5120), 2 * 5120**2)
        for n in range(15)
        for layer in ("self_attn.q", "ffn.0")
    }
    ends = {
        name: ("F16", (8,), 16)
        for name in ("patch_embedding.weight", "time_embedding.0.weight", "head.modulation", "head.head.weight")
    }
    write_hollow(folder / "hollow_fp16.safetensors", large | ends)
    with comfy_server.events() as events:
        prompt = comfy_server.queue(node("hollow_fp16.safetensors"))
        events.wait_for("progress_text", lambda data: "hollow_int8_convrot" in str(data))
        comfy_server.interrupt(prompt)
        result = comfy_server.wait(prompt)
    assert result.interrupted and not result.error
    assert {path.name for path in folder.glob("hollow*")} <= {
        "hollow_fp16.safetensors",
        "hollow_int8_convrot.safetensors.lock",
    }
    (folder / "hollow_fp16.safetensors").unlink()
