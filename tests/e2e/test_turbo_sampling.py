"""rCM sampling and sparse attention inside ComfyUI, on tiny TurboWan weights, in process."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import GOLDEN, tiny
from support.golden import Golden

QUIET = (lambda done, total: None, lambda: False, lambda text: None)
SEED = 5


class Inputs:
    """Inputs and results of the published run."""

    def __init__(self):
        path = GOLDEN / "turbowan_t2v_forward.safetensors"
        self.numbers = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        self.seed, self.topk = int(metadata["seed"]), float(metadata["sla_topk"])
        self.shape = (1, 16, *(int(side) for side in metadata["latent"].split(",")))
        text = tiny.recipe_input("context", self.seed, (1, 37, 4096), scale=0.3)
        self.positive = [[torch.nn.functional.pad(text, (0, 0, 0, 512 - 37)), {}]]
        names = ["x", *(f"noise.{i}" for i in range(4))]
        self.noises = [tiny.recipe_input(name, self.seed, self.shape) for name in names]


@pytest.fixture(scope="module")
def golden():
    return Inputs()


def load(folder, name):
    from steadydancer.loaders.turbo import load_turbo, prepared

    return load_turbo([prepared(tiny.write_turbowan(folder / name, "fp32"), *QUIET)], "fp32", None, None)[0]


@pytest.fixture(scope="module")
def loaded(comfyui, tmp_path_factory):
    return load(tmp_path_factory.mktemp("turbo"), "TurboWan2.1-T2V-1.3B-480P.pth")


@pytest.fixture(scope="module")
def low(comfyui, tmp_path_factory):
    return load(tmp_path_factory.mktemp("low"), "TurboWan-low-480P.pth")[0]


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def run(high, low, golden, times, seed=SEED, ode=False, noises=None, callback=None, monkeypatch=None, latent=None):
    from steadydancer.turbo import sampler

    if noises is not None:
        given = iter(noises)
        monkeypatch.setattr(sampler.RCMSampler, "draw", lambda self, shape, device: next(given).to(device))
    latent = torch.zeros(golden.shape) if latent is None else latent
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        out = sampler.sample(
            high, low, golden.positive, latent, times, generator, ode=ode, callback=callback, quiet=True
        )
    return high.model.process_latent_in(out)


def test_the_published_run_is_reproduced(loaded, golden, monkeypatch):
    from steadydancer.turbo.schedule import rcm_times
    from steadydancer.turbo.sla import with_sla

    model, projections = loaded
    states = []
    out = run(
        with_sla(model, projections, golden.topk), None, golden, rcm_times(4, 80.0), noises=golden.noises,
        monkeypatch=monkeypatch, callback=lambda step, denoised, x, steps: states.append(x.clone()),
    )  # fmt: skip
    errors = [relative(states[0], golden.numbers["traj.latent.0"]), relative(out, golden.numbers["traj.latent.3"])]
    print(f"latents: relative errors {errors[0]:.1e}, {errors[1]:.1e}")
    assert max(errors) <= 5e-4


@pytest.mark.parametrize("ode", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_closed_form_in_float64(loaded, low, golden, steps, ode):
    """The formulas of rCM, with the networks called by hand and the experts by the published table."""
    from steadydancer.turbo.schedule import rcm_times

    high, times = loaded[0], rcm_times(steps, 200.0)
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(golden.shape, generator=generator).double() * times[0]
    with torch.inference_mode():
        for i, who in enumerate({1: "h", 2: "hh", 3: "hhl", 4: "hhll"}[steps]):
            network = (high if who == "h" else low).model.diffusion_model
            fed = (torch.tensor([times[i]]) * 1000).bfloat16().float()
            v = network(x.float(), fed, golden.positive[0][0]).double()
            if ode:
                x = x - (times[i] - times[i + 1]) * v
            else:
                noise = torch.randn(golden.shape, generator=generator)
                x = (1 - times[i + 1]) * (x - times[i] * v) + times[i + 1] * noise.double()
    assert relative(run(high, low, golden, times, ode=ode), x) <= 1e-6


def test_core_lcm_with_our_sigmas_is_the_same(loaded, golden, monkeypatch):
    import comfy.samplers
    from steadydancer.turbo.schedule import rcm_times

    model, times = loaded[0], rcm_times(4, 80.0)
    ours = run(model, None, golden, times, noises=golden.noises, monkeypatch=monkeypatch)
    given = iter(golden.noises[1:])
    lcm = comfy.samplers.ksampler("lcm", {"noise_sampler": lambda sigma, next_sigma: next(given)})
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(golden.positive, [])
    zeros = torch.zeros(golden.shape)
    with torch.inference_mode():
        out = guider.sample(golden.noises[0], zeros, lcm, torch.tensor(times), disable_pbar=True, seed=0)
    assert relative(model.model.process_latent_in(out), ours) <= 1e-5


def test_timesteps_are_rounded_as_published(loaded, golden):
    from steadydancer.turbo.schedule import rcm_times

    seen = []
    hook = loaded[0].model.diffusion_model.register_forward_pre_hook(
        lambda module, args: seen.append(float(args[1][0]))
    )
    try:
        run(loaded[0], None, golden, rcm_times(4, 80.0))
    finally:
        hook.remove()
    assert seen == [988, 932, 852, 608]


def test_all_noise_comes_from_one_stream(loaded, low, golden, monkeypatch):
    """The second expert's noise is neither the first one's nor like it, and the last step draws too."""
    from steadydancer.turbo import sampler
    from steadydancer.turbo.schedule import rcm_times

    drawn, draw = [], sampler.RCMSampler.draw
    monkeypatch.setattr(sampler.RCMSampler, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    run(loaded[0], low, golden, rcm_times(4, 200.0))
    generator = torch.Generator().manual_seed(SEED)
    assert len(drawn) == 5
    assert all(torch.equal(noise, torch.randn(golden.shape, generator=generator)) for noise in drawn)
    correlations = torch.corrcoef(torch.stack([noise.flatten() for noise in drawn])) - torch.eye(5)
    assert correlations.abs().max() < 5 / drawn[0].numel() ** 0.5


def test_one_expert_at_a_time_is_asked_for(loaded, low, golden, monkeypatch):
    """So ComfyUI may put the first away where the card has no room for both; and what was put away goes on as before."""
    import comfy.model_management as mm
    from steadydancer.turbo.schedule import rcm_times

    times, asked, load_models = rcm_times(4, 200.0), [], mm.load_models_gpu
    kept = run(loaded[0], low, golden, times)

    def load(models, *args, **kwargs):
        asked.append([model.model for model in models])
        mm.unload_all_models()  # as where memory is short
        return load_models(models, *args, **kwargs)

    monkeypatch.setattr(mm, "load_models_gpu", load)
    assert torch.equal(run(loaded[0], low, golden, times), kept)
    assert asked == [[loaded[0].model], [low.model]]


@pytest.mark.parametrize("stop", range(4))
def test_steps_are_counted_through_and_an_error_ends_the_run(loaded, low, golden, stop):
    from steadydancer.turbo.schedule import rcm_times

    seen = []

    def callback(step, denoised, x, steps):
        seen.append((step, steps))
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(loaded[0], low, golden, rcm_times(4, 200.0), callback=callback)
    assert seen == [(i, 4) for i in range(stop + 1)]


def test_cancel_is_noticed_inside_a_step(loaded, golden):
    import comfy.model_management
    from steadydancer.turbo.schedule import rcm_times

    blocks = loaded[0].model.diffusion_model.blocks
    called = []

    def cancel(module, args, out):
        called.append(1)
        comfy.model_management.interrupt_current_processing()

    hook = blocks[0].register_forward_hook(cancel)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(loaded[0], None, golden, rcm_times(4, 80.0))
    finally:
        hook.remove()
        comfy.model_management.interrupt_current_processing(False)
    assert len(called) == 1


def with_previous(model):
    """The MODEL with another override in place, and the list of (queries, keys) that it is given."""
    seen = []

    def previous(func, q, k, v, heads, **kwargs):
        seen.append((q.shape[1], k.shape[1]))
        return func(q, k, v, heads, **kwargs)

    chained = model.clone()
    chained.model_options["transformer_options"]["optimized_attention_override"] = previous
    return chained, seen


def test_cross_attention_goes_to_the_override_that_was_there(loaded, golden):
    from steadydancer.turbo.sla import with_sla

    model, projections = loaded
    chained, seen = with_previous(model)
    plain = run(with_sla(model, projections, 0.34), None, golden, [0.9, 0.0])
    assert torch.equal(run(with_sla(chained, projections, 0.34), None, golden, [0.9, 0.0]), plain)
    assert seen == [(5 * 12 * 12, 512)] * 2
    assert "optimized_attention_override" not in model.model_options["transformer_options"]


def test_a_text_as_long_as_the_video_is_not_taken_for_the_video(loaded, golden):
    """Text is padded to 512 tokens, and 2 frames of 256×256 are 512 tokens."""
    from steadydancer.turbo.sla import with_sla

    model, projections = loaded
    chained, seen = with_previous(model)
    latent = torch.zeros(1, 16, 2, 32, 32)
    inputs = Inputs()
    inputs.shape = latent.shape
    run(with_sla(chained, projections, 0.34), None, inputs, [0.9, 0.8, 0.0], latent=latent)
    assert seen == [(512, 512)] * 4, "two blocks, two steps"


def test_everything_selected_without_projection_is_dense(loaded, golden):
    from steadydancer.turbo.sla import with_sla

    model, projections = loaded
    zeros = {i: tuple(torch.zeros_like(part) for part in pair) for i, pair in projections.items()}
    dense = run(model, None, golden, [0.9, 0.0])
    assert relative(run(with_sla(model, zeros, 1.0), None, golden, [0.9, 0.0]), dense) < 1e-5
    assert relative(run(with_sla(model, projections, 1.0), None, golden, [0.9, 0.0]), dense) > 1e-3


def test_first_step_is_dense_without_training(loaded, golden):
    from steadydancer.turbo.sla import with_sparse_attention

    model = loaded[0]
    sparse = with_sparse_attention(model, 0.3)
    assert torch.equal(run(sparse, None, golden, [0.9, 0.0]), run(model, None, golden, [0.9, 0.0]))
    assert relative(run(sparse, None, golden, [0.95, 0.9, 0.0]), run(model, None, golden, [0.95, 0.9, 0.0])) > 1e-3


def test_models_with_stale_block_numbers_are_refused(loaded):
    import comfy.ldm.wan.model
    from steadydancer.turbo.sla import with_sla

    vace = loaded[0].clone()
    network = comfy.ldm.wan.model.VaceWanModel.__new__(comfy.ldm.wan.model.VaceWanModel)
    torch.nn.Module.__init__(network)

    class Holder:
        diffusion_model = network

    vace.model = Holder()
    with pytest.raises(ValueError, match="VACE"):
        with_sla(vace, loaded[1])
    with pytest.raises(ValueError, match="1 blocks and the model 2"):
        with_sla(loaded[0], {0: loaded[1][0]})


def test_a_compiled_model_computes_the_same(loaded, golden):
    from steadydancer.turbo.sla import with_sla

    model = with_sla(*loaded, 0.34)
    network, options = model.model.diffusion_model, model.model_options["transformer_options"]
    inputs = (golden.noises[0], torch.tensor([900.0]), golden.positive[0][0])
    with torch.inference_mode():
        plain = network(*inputs, transformer_options=dict(options))
        compiled = torch.compile(network, backend="eager")(*inputs, transformer_options=dict(options))
    assert relative(compiled, plain) < 1e-5


@pytest.fixture(scope="module")
def dancer(comfyui, tmp_path_factory):
    from steadydancer.loaders import build

    return build.load_one(str(tiny.write_steadydancer(tmp_path_factory.mktemp("dancer") / "dancer.safetensors")))


def dancer_run(model, sigmas):
    """SteadyDancer with the golden conditioning and core's Euler."""
    import comfy.samplers

    golden = Golden()
    positive, *_ = golden.conditionings(model)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, [])
    guider.set_cfg(1.0)
    euler = comfy.samplers.ksampler("euler")
    with torch.inference_mode():
        return guider.sample(
            golden.x, torch.zeros_like(golden.x), euler, torch.tensor(sigmas), disable_pbar=True, seed=0
        )


def test_steadydancers_references_are_chosen_and_its_first_step_is_dense(dancer, monkeypatch):
    from steadydancer.turbo import sla

    seen, attend = [], sla.sparse_attention

    def watched(q, k, v, projection, topk, pinned=0):
        seen.append((q.shape[1], pinned, projection, topk))
        return attend(q, k, v, projection, topk, pinned)

    monkeypatch.setattr(sla, "sparse_attention", watched)
    sparse = sla.with_sparse_attention(dancer, 0.3)
    assert torch.equal(dancer_run(sparse, [0.9, 0.0]), dancer_run(dancer, [0.9, 0.0])) and not seen
    dancer_run(sparse, [0.95, 0.9, 0.0])
    blocks = len(dancer.model.diffusion_model.blocks)
    t, h, w = Golden().x.shape[2:]
    frame, tokens = (h // 2) * (w // 2), (t + 2) * (h // 2) * (w // 2)
    assert len(seen) == blocks, "the self-attention of every block, in the second step alone"
    for length, pinned, projection, topk in seen:
        assert (length, projection, topk) == (tokens, None, 0.3)
        first = (-(-tokens // 64) - pinned) * 64  # the first pinned token
        assert tokens - 2 * frame - 64 < first <= tokens - 2 * frame, "both frames, and no block more"


def test_a_compiled_dancer_computes_the_same_sparsely(dancer):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from steadydancer.turbo.sla import with_sparse_attention

    sparse = with_sparse_attention(dancer, 0.3)
    plain = dancer_run(sparse, [0.95, 0.9, 0.0])
    compiled = sparse.clone()
    torch._dynamo.reset()
    set_torch_compile_wrapper(model=compiled, backend="eager")
    assert relative(dancer_run(compiled, [0.95, 0.9, 0.0]), plain) < 1e-4
    assert relative(dancer_run(dancer, [0.95, 0.9, 0.0]), plain) > 1e-4


def test_references_stay_in_view(comfyui):
    from steadydancer.turbo.sla import SparseAttention

    pinned = SparseAttention(None, 0.3, pinned_frames=2).pinned_blocks
    assert pinned(10 * 64, (10, 8, 8)) == 2
    assert pinned(7 * 36, (7, 6, 6)) == 2  # tokens 180 to 251: blocks 2 and 3
    assert pinned(23 * 1560, (23, 30, 52)) == 50
