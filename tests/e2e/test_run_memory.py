"""Memory of a run beside the weights: taken before the first block, given back at the end, measured where it is."""

from types import SimpleNamespace

import pytest
import torch
from steadydancer.machine import gpus
from steadydancer.planning.job import job_for
from steadydancer.planning.planner import plan_job
from support import tiny
from support.golden import Golden
from support.tiny_gguf import write_steadydancer_gguf


@pytest.fixture(autouse=True)
def as_in_comfyui():
    """Whose nodes all run so."""
    with torch.inference_mode():
        yield


def lora_on_everything(model, rank=4):
    """The MODEL with a plain LoRA on every layer of its blocks."""
    from comfy.weight_adapter.lora import LoRAAdapter

    random, patches = torch.Generator().manual_seed(2), {}
    for name, module in model.model.diffusion_model.named_modules():
        if name.startswith("blocks.") and hasattr(module, "side_branch"):
            up = torch.randn(module.out_features, rank, generator=random) * 0.02
            down = torch.randn(rank, module.in_features, generator=random) * 0.02
            patches[f"diffusion_model.{name}.weight"] = LoRAAdapter(set(), (up, down, None, None, None, None))
    model = model.clone()
    model.add_patches(patches)
    return model


def sample(model):
    import comfy.samplers

    golden = Golden()
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(golden.conditionings(model)[0], [])
    guider.set_cfg(1.0)
    euler, zeros = comfy.samplers.ksampler("euler"), torch.zeros_like(golden.x)
    return guider.sample(golden.x, zeros, euler, torch.tensor([0.9, 0.0]), disable_pbar=True, seed=0)


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_memory_of_a_run_with_a_lora(comfyui, tmp_path, kind):
    from steadydancer.loaders import build

    model = build.load_gguf(str(write_steadydancer_gguf(tmp_path / "dancer.gguf", kind)))
    plain = sample(model)
    patched = lora_on_everything(model)
    network = patched.model.diffusion_model
    scratch, held = network.blocks[0].self_attn.q.scratch, {}

    def memory():
        branches = [module.side_branch for module in network.modules() if getattr(module, "side_branch", None)]
        pieces = [part for branch in branches for pair in branch.ready.values() for part in pair]
        return len(branches), sorted(piece.data_ptr() for piece in [*pieces, *scratch.memory.values()])

    hooks = [
        network.blocks[0].register_forward_pre_hook(lambda *_: held.update(before=memory())),
        network.blocks[-1].register_forward_hook(lambda *_: held.update(after=memory())),
    ]
    changed = sample(patched)
    for hook in hooks:
        hook.remove()
    assert held["before"] == held["after"], "nothing is taken inside a block"
    branches, pieces = held["before"]
    assert branches > 10 and len(pieces) == 2 * branches + 1
    assert memory() == (branches, []), "nothing is left for the VAE to miss"
    assert torch.equal(sample(patched), changed) and not torch.equal(changed, plain)


@pytest.mark.parametrize("layer", ["ffn.0", "ffn.2", "self_attn.o", "cross_attn.k_img"])
@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_a_lora_on_a_layer_reaches_the_block(comfyui, tmp_path, kind, layer):
    """Through the whole block: ComfyUI may multiply by a layer's weight without calling the layer."""
    from comfy.weight_adapter.lora import LoRAAdapter
    from steadydancer.loaders import build

    path = str(write_steadydancer_gguf(tmp_path / "dancer.gguf", kind))
    model = build.load_gguf(path)
    weight = model.model.diffusion_model.get_submodule(f"blocks.0.{layer}").weight
    random = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=random) * 0.1 for shape in ((weight.shape[0], 4), (4, weight.shape[1])))
    key = f"diffusion_model.blocks.0.{layer}.weight"
    beside, unpacked = model.clone(), build.load_gguf(path)
    beside.add_patches({key: LoRAAdapter(set(), (up, down, None, None, None, None))})
    unpacked.add_patches({key: ("diff", (up @ down,))})
    found, expected, plain = sample(beside), sample(unpacked), sample(model)
    change = (expected - plain).norm()
    assert change > 1e-3 * plain.norm()
    assert (found - expected).norm() < 1e-2 * change


def test_sparse_attention_brings_its_projections_before_the_blocks(comfyui, tmp_path):
    import comfy.samplers
    from steadydancer.loaders.turbo import load_turbo, prepared
    from steadydancer.turbo.sla import with_sla

    quiet = (lambda done, total: None, lambda: False, lambda text: None)
    path = prepared(tiny.write_turbowan(tmp_path / "TurboWan2.1-T2V-1.3B-480P.pth", "fp32"), *quiet)
    model = with_sla(*load_turbo([path], "fp32", None, None)[0], 0.3)
    override = model.model_options["transformer_options"]["optimized_attention_override"]
    seen = []
    hook = model.model.diffusion_model.blocks[0].register_forward_pre_hook(lambda *_: seen.append(len(override.ready)))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[torch.randn(1, 512, 4096), {}]], [])
    guider.set_cfg(1.0)
    x = torch.randn(1, 16, 2, 16, 16)
    guider.sample(x, torch.zeros_like(x), comfy.samplers.ksampler("euler"), torch.tensor([0.9, 0.0]), seed=0)
    hook.remove()
    assert seen == [2] and len(override.ready) == 2


@pytest.mark.parametrize("phase", ["vae_encode", "vae_decode", "text_encode", "image_encode"])
def test_a_phase_on_another_device_teaches_nothing(comfyui, tmp_path, monkeypatch, phase):
    """--cpu-vae, or a text encoder that ComfyUI puts on the CPU: the card would say that it takes nothing."""
    import comfy.model_management as mm
    from steadydancer.loaders.run import PlannedRun
    from steadydancer.planning.calibration import Calibration

    card = torch.device("cuda", 0)
    monkeypatch.setattr(mm, "get_torch_device", lambda: card)
    monkeypatch.setattr(mm, "current_loaded_models", [])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 10**9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    plan = plan_job(job_for("steadydancer/fp8", 832, 480, 81), gpus.card("RTX 4090"))
    run = PlannedRun(plan, Calibration(tmp_path / "vram_calibration.json", "0.30.0/pytorch"))
    for device, learnt in ((torch.device("cpu"), 0), (torch.device("cuda", 1), 0), (card, 1)):
        with run.measured(phase, SimpleNamespace(load_device=device, loaded_size=lambda: 0)):
            pass
        assert len(run.take()) == learnt


@pytest.mark.parametrize("size", [(3, 8, 8), (2, 96, 88), (1, 130, 128)])
def test_alignment_attends_in_parts(comfyui, monkeypatch, size):
    """A latent pixel is an item of the batch: above 2.1 megapixels there are more than a GPU's kernels take."""
    from steadydancer.dancer import pose_modules

    frames, height, width = size
    random = torch.Generator().manual_seed(0)
    attention = pose_modules.FrameAttention()
    for parameter in attention.parameters():
        parameter.data.normal_(std=0.1, generator=random)
    query, context = (torch.randn(frames, 128, height, width, generator=random) for _ in range(2))
    batches, attend = [], torch.nn.functional.scaled_dot_product_attention
    with monkeypatch.context() as patch:
        patch.setattr(pose_modules, "PIXELS", 1 << 30)
        whole = attention(query, context)
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v: batches.append(len(q)) or attend(q, k, v)
    )
    found = attention(query, context)
    assert sum(batches) == height * width and max(batches) <= 8192
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_cores_fused_activation_goes_through_the_layer(comfyui, tmp_path, kind):
    """`linear_input_act`, which newer versions call for ffn.2: not past the LoRA that runs beside the layer."""
    import comfy.model_management
    import comfy.ops
    from steadydancer.loaders import build

    model = lora_on_everything(build.load_gguf(str(write_steadydancer_gguf(tmp_path / "dancer.gguf", kind))))
    comfy.model_management.load_models_gpu([model])
    layer = model.model.diffusion_model.blocks[0].ffn[2]
    x = torch.randn(3, layer.in_features)
    act = torch.nn.functional.gelu(x, approximate="tanh")
    assert layer.side_branch is not None
    assert torch.equal(comfy.ops.linear_input_act(layer, x, "gelu_tanh"), layer(act))
