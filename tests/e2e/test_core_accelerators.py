"""Core's own ways to a faster run, with our MODEL and guider on the CPU: two devices, attention backends."""

import pytest
import torch
from support import tiny
from support.evaluation import relative
from support.golden import Golden
from support.tiny_gguf import write_steadydancer_gguf


@pytest.fixture(scope="module")
def golden():
    return Golden()


@pytest.fixture(scope="module")
def models(comfyui, tmp_path_factory):
    """Kind → MODEL, from files of its own, as core loads them a second time for a second device."""
    from steadydancer.loaders.build import load_gguf, load_one

    folder = tmp_path_factory.mktemp("models")
    return {
        "safetensors": load_one(str(tiny.write_steadydancer(folder / "dancer.safetensors", "fp32"))),
        "Q8_0": load_gguf(str(write_steadydancer_gguf(folder / "dancer.gguf", "Q8_0"))),
    }


def run(model, golden):
    """A step with all three guidance branches."""
    import comfy.samplers
    from steadydancer.dancer.guidance import SteadyDancerGuider
    from steadydancer.dancer.sampling import steadydancer_sigmas

    guider = SteadyDancerGuider(model)
    positive, negative, pose_negative = golden.conditionings(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(5.0)
    guider.set_pose_guidance(pose_negative, 1.0, -1.0, 2.0)
    euler, sigmas = comfy.samplers.ksampler("euler"), steadydancer_sigmas(2, 5.0)
    return guider.sample(golden.x, torch.zeros_like(golden.x), euler, sigmas, disable_pbar=True, seed=0)


@pytest.fixture
def two_devices(comfyui, monkeypatch):
    """`cpu` and `cpu:0` are two devices to ComfyUI, and both compute."""
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "get_all_torch_devices", lambda **kwargs: [torch.device("cpu"), torch.device("cpu", 0)])


def one_by_one(model):
    """The MODEL as a plan for branches after each other leaves it."""
    from dataclasses import replace

    from steadydancer.loaders import placement
    from steadydancer.loaders.run import PlannedRun
    from steadydancer.machine import gpus
    from steadydancer.planning.job import job_for
    from steadydancer.planning.planner import plan_job

    plan = plan_job(job_for("steadydancer/fp16", 64, 64, 17), gpus.card("RTX 4090"))
    return placement.placed(model.clone(), PlannedRun(replace(plan, batched=False, kept=plan.blocks)))


@pytest.mark.parametrize("kind", ["safetensors", "Q8_0", "planned"])
def test_branches_are_split_between_two_devices(models, golden, two_devices, kind):
    """MultiGPU CFG Split, also where a plan evaluates branches after each other."""
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode

    model = one_by_one(models["safetensors"]) if kind == "planned" else models[kind]
    plain = run(model, golden)
    split = MultiGPUCFGSplitNode.execute(model, 2).result[0]
    (second,) = split.get_additional_models_with_key("multigpu")
    asked = []
    hooks = [
        each.model.diffusion_model.register_forward_pre_hook(lambda *_, each=each: asked.append(each.load_device.index))
        for each in (split, second)
    ]
    out = run(split, golden)
    for hook in hooks:
        hook.remove()
    assert type(second.model) is type(model.model) and second.model is not model.model
    assert set(asked) == {None, 0}
    assert relative(out, plain) < 1e-5


def test_each_device_has_its_own_memory_for_layers_and_gives_it_back(models, golden, two_devices):
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode

    split = MultiGPUCFGSplitNode.execute(models["Q8_0"], 2).result[0]
    (second,) = split.get_additional_models_with_key("multigpu")
    scratch = {each.load_device: each.model.diffusion_model.blocks[0].ffn[0].scratch for each in (split, second)}
    held = {}
    hooks = [
        each.model.diffusion_model.blocks[0].register_forward_pre_hook(
            lambda *_, at=each.load_device: held.setdefault(at, list(scratch[at].memory)) and None
        )
        for each in (split, second)
    ]
    run(split, golden)
    for hook in hooks:
        hook.remove()
    assert len(set(map(id, scratch.values()))) == 2
    assert held == {device: [device] for device in scratch}, "taken before the blocks, on the device that computes"
    assert not any(piece.memory for piece in scratch.values())


def test_the_attention_that_cores_node_chooses(models, golden):
    """Model Attention Backend, of ComfyUI 0.32 and later."""
    from comfy_extras import nodes_model_advanced

    if not hasattr(nodes_model_advanced, "ModelAttentionBackend"):
        pytest.skip("this ComfyUI has no such node")
    plain = run(models["safetensors"], golden)
    (chosen,) = nodes_model_advanced.ModelAttentionBackend().patch(models["safetensors"], "pytorch attention")
    assert "optimized_attention_override" in chosen.model_options["transformer_options"]
    assert relative(run(chosen, golden), plain) < 1e-5


def test_sparse_attention_takes_cores_containers(comfyui):
    """From ComfyUI 0.33 on, a network may hand its queries, keys and values over in containers, to have them freed early."""
    from comfy.ldm.modules import attention
    from steadydancer.turbo.sla import SparseAttention

    if not hasattr(attention, "AttentionTensorContainer"):
        pytest.skip("this ComfyUI has none")
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 300, 256, generator=random) for _ in range(3))

    def attend(*tensors):
        options = {"optimized_attention_override": SparseAttention(None, 0.3), "block_index": 0}
        return attention.optimized_attention(*tensors, heads=2, transformer_options=options)

    plain = attend(q, k, v)
    assert not torch.allclose(plain, attention.optimized_attention(q, k, v, heads=2)), "it is sparse"
    assert torch.equal(attend(*(attention.AttentionTensorContainer(x.clone()) for x in (q, k, v))), plain)
