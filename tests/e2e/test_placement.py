"""A plan put into effect through ComfyUI's own knobs, in this process: estimate, placement cap, guidance one by one, encoder."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from steadydancer.machine import gpus
from steadydancer.planning.job import job_for
from steadydancer.planning.planner import plan_job
from support import tiny


@pytest.fixture
def plan(comfyui, tmp_path):
    path = tiny.write_steadydancer(tmp_path / "model.safetensors", "fp16")
    job = job_for("steadydancer/fp16", 64, 64, 17, branches=2, steps=2)
    return plan_job(job, gpus.card("RTX 4090"), lambda file: path if file == "steadydancer-fp16" else None), path


def load(path):
    from steadydancer.loaders import build

    return build.load_one(str(path))


def placed(model, plan):
    from steadydancer.loaders import placement
    from steadydancer.loaders.run import PlannedRun

    return placement.placed(model, PlannedRun(plan))


def shapes(frames=17, size=64):
    reference = [[1, 16, 1, size // 8, size // 8]]
    latent = [1, 16, (frames - 1) // 4 + 1, size // 8, size // 8]
    return latent, {"ref_latent": reference, "ref_pose_latent": reference}  # of memory_required


def test_comfyuis_estimate_is_the_plans(plan):
    from comfy.patcher_extension import WrapperExecutor, WrappersMP

    plan, path = plan
    model = placed(load(path), plan)
    own = model.model.memory_required(*shapes())
    needed = []

    def sample(guider):
        needed.extend(guider.model_patcher.model.memory_required(*shapes(size=size)) for size in (64, 128))

    # What a node behind the loader does: a clone, and one with weights of its own, as when it is compiled.
    for patcher in (model, model.clone(), model.clone(force_deepcopy=True)):
        needed.clear()
        guider = SimpleNamespace(model_patcher=patcher)
        executor = WrapperExecutor.new_class_executor(sample, guider, patcher.get_all_wrappers(WrappersMP.OUTER_SAMPLE))
        executor.execute(guider)
        assert needed == pytest.approx([plan.activations, 4 * plan.activations])
        assert patcher.model.memory_required(*shapes()) == own, "a later run without a plan finds it as it was"


def test_no_more_than_planned_is_put_on_the_card(plan):
    import comfy.model_management as mm

    plan, path = plan
    limit = load(path).model_size() // 2
    model = placed(load(path), replace(plan, kept=1, resident=limit))
    device = torch.device("cpu")
    model.load(device, lowvram_model_memory=0)
    assert 0 < model.loaded_size() <= limit
    clone = model.clone()
    clone.detach()
    clone.load(device, lowvram_model_memory=limit * 3 // 4)
    assert 0 < clone.loaded_size() <= limit * 3 // 4, "less where ComfyUI has less room"
    clone.detach()
    whole = placed(load(path), plan)
    whole.load(device, full_load=True)
    assert whole.loaded_size() == whole.model_size()
    mm.unload_all_models()


def test_a_lora_beside_packed_weights_leaves_the_planned_blocks_on_the_card(plan, tmp_path):
    """What the LoRA takes was planned beside the blocks."""
    import comfy.utils
    from steadydancer.loaders import build
    from support.tiny_gguf import write_steadydancer_gguf

    plan, _ = plan
    model = build.load_gguf(str(write_steadydancer_gguf(tmp_path / "dancer.gguf", "Q4_K")), disable_dynamic=True)
    lora = tiny.write_lora(tmp_path / "lora.safetensors", rank=512)
    with_lora = build.with_lora(model, lora)
    size = sum(2 * tensor.numel() for tensor in comfy.utils.load_torch_file(str(lora)).values() if tensor.ndim == 2)
    limit = model.model_size() * 3 // 4
    few = replace(plan, kept=1, resident=limit)
    loaded = []
    for patcher, job in ((model, plan.job), (with_lora, replace(plan.job, lora_bytes=size))):
        patcher = placed(patcher.clone(), replace(few, job=job))
        patcher.load(torch.device("cpu"), lowvram_model_memory=0)
        loaded.append(patcher.loaded_size())
        patcher.detach()
    assert size > limit // 3 and 0 < loaded[0] == loaded[1] <= limit


class Space:
    """Stands for the address space in which ComfyUI's dynamic VRAM keeps a model; test_dynamic_memory.py has the real one."""

    def __init__(self, size, device):
        self.watermark, self.taken = None, 0

    def prioritize(self):
        self.watermark = None

    def alloc(self, size):
        self.taken += size
        return (self, self.taken, size)

    def set_watermark(self, size):
        self.watermark = size

    def loaded_size(self):
        return 0

    def free_memory(self, size):
        return 0


@pytest.fixture
def dynamic(comfyui, monkeypatch):
    """dynamic(model) → the model in ComfyUI's own dynamic patcher, its GPU called cpu:0."""
    import comfy.model_management as mm
    import comfy.model_patcher as core
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar

    monkeypatch.setattr(comfy_aimdo.model_vbar, "ModelVBAR", Space)
    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", lambda *args: SimpleNamespace(size=0))
    monkeypatch.setattr(mm, "is_device_cpu", lambda device: device.index is None)

    def patcher(static):
        model = core.ModelPatcherDynamic(static.model, torch.device("cpu", 0), torch.device("cpu"))
        model.cached_patcher_init = static.cached_patcher_init
        return model

    return patcher


def test_no_more_than_planned_under_dynamic_vram(plan, dynamic):
    """By way of clones as LoRA nodes make them."""
    plan, path = plan
    model = dynamic(load(path))
    device = model.load_device
    model = placed(model, replace(plan, kept=1, resident=123_456))
    for patcher in (model, model.clone(), model.clone().clone()):
        assert patcher.is_dynamic() and patcher.partially_load(device) is None
        assert patcher._vbar_get().watermark == 123_456
    compiled = model.clone(disable_dynamic=True)  # what ComfyUI's compile node does
    assert not compiled.is_dynamic() and compiled.model is not model.model
    compiled.load(torch.device("cpu"), lowvram_model_memory=0, full_load=True)
    assert compiled.loaded_size() <= 123_456


def test_patches_of_packed_weights_under_dynamic_vram(dynamic, tmp_path):
    """A plain LoRA beside the layer, a diff on the unpacked weight, and nothing that would pack it again."""
    import comfy.sd
    import comfy.utils
    from steadydancer.loaders import build
    from steadydancer.quant.layout import is_packed
    from steadydancer.quant.patches import with_packed_patches
    from support.tiny_gguf import write_steadydancer_gguf

    static = build.load_gguf(str(write_steadydancer_gguf(tmp_path / "dancer.gguf", "Q4_K")), disable_dynamic=True)
    model = with_packed_patches(dynamic(static))
    lora = comfy.utils.load_torch_file(str(tiny.write_lora(tmp_path / "lora.safetensors", 4)))
    patched = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    layer = model.model.diffusion_model.blocks[0].ffn[0]
    diff = torch.ones(layer.weight.shape)
    patched.add_patches({"diffusion_model.blocks.0.ffn.0.weight": ("diff", (diff,))}, 0.5)
    modules = list(model.model.modules())
    branches = lambda: [module for module in modules if getattr(module, "side_branch", None)]  # noqa: E731
    plain = layer.weight.to(torch.float32).dequantize()
    for _ in range(2):  # again after it was unloaded
        assert patched.is_dynamic() and patched.partially_load(patched.load_device) is None
        assert len(branches()) == sum("lora_down" in key for key in lora)
        assert not any(getattr(module, "weight_lowvram_function", None) for module in modules)
        assert all(is_packed(module.weight) for module in [*branches(), layer]) and layer.side_branch is None
        (add,) = layer.weight_function
        assert torch.equal(add(plain.clone()), plain + 0.5 * diff)
        patched.partially_unload(torch.device("cpu"), 1 << 30)
        patched.detach()
        assert not branches()
    patched.partially_load(patched.load_device)
    model.partially_load(model.load_device)
    assert not branches() and not layer.weight_function


def test_guidance_one_by_one_gives_the_same(plan):
    import comfy.samplers
    from steadydancer.loaders import placement

    seen = []

    class Model:
        def __init__(self):
            self.current_patcher = self

        memory_usage_factor_conds = ()

        def memory_required(self, *args, **kwargs):
            return 0

        def get_free_memory(self, device):
            return 1 << 40

        def prepare_state(self, *args):
            pass

        def apply_hooks(self, hooks):
            return {}

        def apply_model(self, x, timestep, transformer_options, c_crossattn):
            seen.append(transformer_options["cond_or_uncond"])
            return x * c_crossattn.mean(dim=(1, 2))[:, None, None, None]

    def cond(value):
        import comfy.conds

        return [
            {"model_conds": {"c_crossattn": comfy.conds.CONDCrossAttn(torch.full((1, 2, 3), value))}, "uuid": value}
        ]

    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    args = {
        "model": Model(),
        "conds": [cond(1.0), None, cond(3.0)],
        "input": x,
        "sigma": torch.ones(1),
        "model_options": {},
    }
    together = comfy.samplers.calc_cond_batch(
        *(args[name] for name in ("model", "conds", "input", "sigma", "model_options"))
    )
    assert seen == [[2, 0]]
    for one, other in zip(placement.one_by_one(args), together, strict=True):
        assert torch.equal(one, other)
    assert seen == [[2, 0], [0], [2]], "each branch under its own number"


def test_split_guidance_and_measuring_are_on_the_patcher(plan):
    from comfy.patcher_extension import WrappersMP
    from steadydancer.loaders import placement

    plan, path = plan
    split = placed(load(path), replace(plan, batched=False))
    assert split.model_options["sampler_calc_cond_batch_function"] is placement.one_by_one
    assert split.wrappers[WrappersMP.OUTER_SAMPLE][placement.KEY]
    assert "sampler_calc_cond_batch_function" not in placed(load(path), plan).model_options


def test_the_text_encoder_stays_on_the_cpu_where_planned(plan, tmp_path):
    from steadydancer.loaders import build, placement

    path = tiny.write_t5_base(tmp_path / "t5.safetensors")
    clip = build.load_clip([path], "wan", placement.on_cpu())
    assert clip.patcher.load_device == clip.patcher.offload_device == torch.device("cpu")


def test_a_plan_does_not_keep_its_model_alive(plan):
    import gc
    import weakref

    plan, path = plan
    model = placed(load(path), plan)
    gone = weakref.ref(model.model)
    gc.collect()
    gc.disable()
    try:
        del model
        assert gone() is None, "a cycle would keep 16 GB until Python looks for garbage"
    finally:
        gc.enable()


class Allocator:
    """Stands for torch's allocator on a GPU and ComfyUI's list of models, so that measuring can be tried without one."""

    def __init__(self, monkeypatch):
        import comfy.model_management as mm

        self.now = self.most = 0
        self.device = torch.device("cuda", 0)
        monkeypatch.setattr(mm, "get_torch_device", lambda: self.device)
        monkeypatch.setattr(mm, "current_loaded_models", [])
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.now)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.most)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: setattr(self, "most", self.now))
        self.models = mm.current_loaded_models

    def take(self, size):
        self.now += size
        self.most = max(self.most, self.now)

    def load(self, size):
        weights = SimpleNamespace(model_loaded_weight_memory=size)
        model = SimpleNamespace(model=weights, load_device=self.device, loaded_size=lambda: size)
        self.models.append(SimpleNamespace(model=model, device=self.device))
        self.take(size)
        return model

    def unload(self, model):
        self.models[:] = [loaded for loaded in self.models if loaded.model is not model]
        self.take(-model.loaded_size())

    def compute(self, size):
        torch.nn.Identity()(None)
        self.take(size)
        self.take(-size)


GB = 10**9


def run_of_a_plan(tmp_path):
    from steadydancer.loaders.run import PlannedRun
    from steadydancer.planning.calibration import Calibration

    plan = plan_job(job_for("steadydancer/fp8", 832, 480, 81), gpus.card("RTX 4090"))
    return PlannedRun(plan, Calibration(tmp_path / "vram_calibration.json", "0.30.0/pytorch"))


def test_other_models_on_the_card_are_nobodys_activations(comfyui, tmp_path, monkeypatch):
    gpu, run = Allocator(monkeypatch), run_of_a_plan(tmp_path)
    gpu.take(1 * GB)  # something of another node
    encoder = gpu.load(6 * GB)
    with run.measured("vae_encode"):
        gpu.compute(2 * GB)
    with run.measured("sample"):
        gpu.unload(encoder)
        model = gpu.load(16 * GB)
        gpu.compute(4 * GB)
    assert run.meter.peaks["vae_encode"].activations == 2 * GB
    assert run.meter.peaks["sample"].activations == 4 * GB
    with run.measured("vae_decode", model):
        gpu.compute(3 * GB)
    assert run.meter.peaks["vae_decode"].activations == 3 * GB and run.meter.peaks["vae_decode"].weights == 16 * GB
    assert {one.phase: one.measured for one in run.take()}["vae_decode"] == 3 * GB


def test_what_left_the_card_before_a_phase_computed_is_not_its_peak(comfyui, tmp_path, monkeypatch):
    gpu, run = Allocator(monkeypatch), run_of_a_plan(tmp_path)
    model = gpu.load(16 * GB)
    with run.measured("text_encode"):
        gpu.unload(model)
        gpu.load(6 * GB)
        gpu.compute(GB // 2)
    assert run.meter.peaks["text_encode"].activations == GB // 2


def test_one_wild_run_is_forgotten_with_its_report(comfyui, tmp_path, monkeypatch):
    gpu, run = Allocator(monkeypatch), run_of_a_plan(tmp_path)
    for taken in (40, 3, 3, 3):
        for part in (taken, 1):  # two evaluations of one run: the larger counts
            with run.measured("vae_decode"):
                gpu.compute(part * GB)
        run.calibration.add(run.take())
    assert [one.measured for one in run.calibration.read()] == [40 * GB, 3 * GB, 3 * GB, 3 * GB]
    assert run.take() == [], "nothing new"
    assert "3.00" in "\n".join(run.lines()), "but the last run is still shown"


def test_tiles_of_an_earlier_run_are_forgotten(comfyui, tmp_path, monkeypatch):
    gpu, run = Allocator(monkeypatch), run_of_a_plan(tmp_path)
    with run.measured("vae_decode"):
        run.rescued("vae_decode")
        gpu.compute(GB)
    with run.measured("vae_decode"):
        gpu.compute(GB)  # a smaller part of the same run
    assert run.take() == [] and [one.ran_out for one in run.calibration.read()] == [True]
    with run.measured("vae_decode"):
        gpu.compute(GB)
    assert len(run.take()) == 1 and "in tiles" not in "\n".join(run.lines())


def test_tiles_that_were_planned_are_no_running_out(comfyui, tmp_path, monkeypatch):
    """ComfyUI tries whole frames even where the plan already says that they do not fit."""
    from steadydancer.loaders.run import PlannedRun

    gpu, run = Allocator(monkeypatch), run_of_a_plan(tmp_path)
    small = PlannedRun(plan_job(job_for("steadydancer/Q4_K_M", 1920, 1088, 81), gpus.card("RTX 4060")))
    small.calibration = run.calibration
    for found, expected in ((small, []), (run, [True])):
        with found.measured("vae_encode"):
            found.rescued("vae_encode")
            gpu.compute(GB)
        assert found.take() == [] and "in tiles" in "\n".join(found.lines())
        assert [one.ran_out for one in run.calibration.read()] == expected


def test_the_report_compares_what_was_planned_for_the_card(comfyui, tmp_path, monkeypatch):
    from steadydancer.loaders.run import PlannedRun

    gpu = Allocator(monkeypatch)
    small = replace(gpus.card("RTX 4060"), free=6 * GB)
    run = PlannedRun(plan_job(job_for("steadydancer/Q4_K_M", 480, 272, 81), small))
    assert run.plan.text_encoder == "cpu"
    for phase in ("text_encode", "sample"):
        with run.measured(phase):
            gpu.compute(GB)
    assert [line.partition(":")[0] for line in run.lines()] == ["sampling"]
