"""A plan put into effect through ComfyUI's own knobs, in this process: estimate, placement cap, guidance one by one, encoder."""

from dataclasses import replace

import pytest
import torch
from steadydancer.budget import gpus
from steadydancer.budget.planner import job_for, plan_job
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
    from steadydancer.loaders.meter import Meter

    return placement.placed(model, plan, Meter(plan))


def shapes(frames=17, size=64):
    reference = [[1, 16, 1, size // 8, size // 8]]
    latent = [1, 16, (frames - 1) // 4 + 1, size // 8, size // 8]
    return latent, {"ref_latent": reference, "ref_pose_latent": reference}


def test_comfyuis_estimate_is_the_plans(plan):
    plan, path = plan
    model = placed(load(path), plan)
    latent, conds = shapes()
    assert model.model.memory_required(latent, cond_shapes=conds) == pytest.approx(plan.activations)
    twice, conds = shapes(size=128)
    assert model.model.memory_required(twice, cond_shapes=conds) == pytest.approx(4 * plan.activations)


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
            seen.append(len(x))
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
    assert seen == [2]
    for one, other in zip(placement.one_by_one(args), together, strict=True):
        assert torch.equal(one, other)
    assert seen == [2, 1, 1]


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
