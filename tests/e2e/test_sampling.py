"""Schedule, solver, guidance and what ComfyUI attaches to a model, in process, on the golden inputs."""

import pytest
import torch
from support import tiny
from support.golden import Golden


@pytest.fixture(scope="module")
def golden():
    return Golden()


def fresh_model(comfyui):
    import comfy.sd

    (path,) = tiny.provide(comfyui / "models", "diffusion_models/Wan21_SteadyDancer_fp32.safetensors")
    return comfy.sd.load_diffusion_model(str(path))


@pytest.fixture(scope="module")
def model(comfyui):
    return fresh_model(comfyui)


class Watched:
    """Counts what the network is asked while the block runs.

    `calls` are (timestep, keyword arguments) per sample, `batches` how many samples went through together.
    """

    def __init__(self, model):
        self.network = model.model.diffusion_model
        self.calls, self.batches = [], []

    def __enter__(self):
        def note(module, args, kwargs):
            batch = args[0].shape[0]
            self.batches.append(batch)
            for i in range(batch):
                tensors = {k: v[i].clone() for k, v in kwargs.items() if torch.is_tensor(v) and v.shape[:1] == (batch,)}
                self.calls.append((float(args[1][i]), {"x": args[0][i].clone(), **tensors}))

        self.handle = self.network.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *error):
        self.handle.remove()

    @property
    def timesteps(self):
        return [timestep for timestep, _ in self.calls]


def guider(model, golden, cfg=5.0, pose_cfg=1.0, start=0.1, end=0.4, with_pose_negative=True):
    from steadydancer.dancer.guidance import SteadyDancerGuider

    positive, negative, pose_negative = golden.conditionings(model)
    out = SteadyDancerGuider(model)
    out.set_conds(positive, negative)
    out.set_cfg(cfg)
    out.set_pose_guidance(pose_negative if with_pose_negative else None, pose_cfg, start, end)
    return out


def run(guider, noise, sigmas, sampler=None, latent=None):
    from steadydancer.dancer.sampling import flow_unipc_sampler

    latent = torch.zeros_like(noise) if latent is None else latent
    with torch.inference_mode():
        return guider.sample(noise, latent, sampler or flow_unipc_sampler(), sigmas, disable_pbar=True, seed=0)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_the_official_run_is_reproduced(model, golden):
    from steadydancer.dancer.sampling import steadydancer_sigmas

    with Watched(model) as seen:
        latent = run(guider(model, golden), golden.x, steadydancer_sigmas(10, 5.0))
    error = relative(model.model.process_latent_in(latent)[0], golden.numbers["traj.latent.9"])
    print(f"last latent: relative error {error:.1e}, {len(seen.calls)} evaluations")
    assert error <= 1e-4
    assert len(seen.calls) == 22
    assert sorted(set(seen.timesteps), reverse=True) == golden.numbers["traj.timesteps"].tolist()


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 20, 30, 40, 50, 100])
@pytest.mark.parametrize("shift", [3.0, 5.0, 8.0])
def test_float32_sigmas_truncate_to_the_official_timesteps(comfyui, steps, shift):
    import numpy as np
    from steadydancer.dancer.sampling import steadydancer_sigmas

    u = np.linspace(0.999, 0, steps + 1)[:-1]
    official = (shift * u / (1 + (shift - 1) * u) * 1000).astype(np.int64)
    ours = (steadydancer_sigmas(steps, shift)[:-1] * 1000).trunc().long()
    assert ours.tolist() == official.tolist()


@pytest.mark.parametrize(
    ("steps", "inside"), [(40, range(5, 16)), (20, range(3, 8)), (10, (2, 3)), (8, (1, 2, 3)), (4, (1,))]
)
def test_pose_guidance_counts_steps_as_published(model, golden, steps, inside):
    from steadydancer.dancer.guidance import progress_at
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(steps, 5.0)
    active = [i for i in range(steps) if 0.1 < progress_at(sigmas[i : i + 1], sigmas) < 0.4]
    assert active == list(inside)


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({}, 22),
        ({"cfg": 1.0}, 12),
        ({"pose_cfg": 0.0}, 20),
        ({"with_pose_negative": False}, 20),
        ({"cfg": 1.0, "start": 0.0, "end": 1.0}, 19),
    ],
)
def test_only_needed_branches_are_evaluated(model, golden, options, evaluations):
    from steadydancer.dancer.sampling import steadydancer_sigmas

    with Watched(model) as seen:
        run(guider(model, golden, **options), golden.x, steadydancer_sigmas(10, 5.0))
    assert len(seen.calls) == evaluations


def test_branches_go_together_where_memory_allows(model, golden, monkeypatch):
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(10, 5.0)
    with Watched(model) as seen:
        run(guider(model, golden), golden.x, sigmas)
    assert seen.batches == [2, 2, 3, 3, 2, 2, 2, 2, 2, 2]
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e15)
    with Watched(model) as seen:
        run(guider(model, golden), golden.x, sigmas)
    assert seen.batches == [1] * 22


def test_cfg_hooks_of_core_see_the_text_part(model, golden):
    """A post-CFG hook that returns the positive branch alone turns the result into c + s·(c − p)."""
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(10, 5.0)
    hooked = model.clone()
    hooked.set_model_sampler_post_cfg_function(lambda args: args["cond_denoised"])
    with_hook = run(guider(hooked, golden), golden.x, sigmas)
    without_text = run(guider(model, golden, cfg=1.0), golden.x, sigmas)
    assert relative(with_hook, without_text) < 1e-5


# Everything in core that works on text guidance: node, inputs. SelfAttentionGuidance is for networks with a middle block.
GUIDANCE_NODES = {
    "RescaleCFG": ("nodes_model_advanced", {"multiplier": 0.7}),
    "CFGZeroStar": ("nodes_cfg", {}),
    "CFGNorm": ("nodes_cfg", {"strength": 0.8}),
    "CFGNorm pre": ("nodes_cfg", {"strength": 0.8, "pre_cfg": True}),
    "TCFG": ("nodes_tcfg", {}),
    "APG": ("nodes_apg", {"eta": 0.5, "norm_threshold": 5.0, "momentum": -0.5}),
    "Mahiro": ("nodes_mahiro", {}),
    "FreSca": ("nodes_fresca", {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 2}),
    "SkipLayerGuidanceDiT": (
        "nodes_slg",
        {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "double_layers": "1", "single_layers": ""},
    ),
    "SkipLayerGuidanceDiTSimple": (
        "nodes_slg",
        {"start_percent": 0.0, "end_percent": 1.0, "double_layers": "1", "single_layers": ""},
    ),
    "NAGuidance": ("nodes_nag", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
    "VideoLinearCFGGuidance": ("nodes_video_model", {"min_cfg": 1.0}),
    "VideoTriangleCFGGuidance": ("nodes_video_model", {"min_cfg": 1.0}),
    "EpsilonScaling": ("nodes_eps", {"scaling_factor": 1.005}),
    "TemporalScoreRescaling": ("nodes_eps", {"tsr_k": 0.95, "tsr_sigma": 1.0}),
    "RenormCFG": ("nodes_lumina2", {"cfg_trunc": 100.0, "renorm_cfg": 0.9}),
    "PerturbedAttentionGuidance": ("nodes_pag", {"scale": 3.0}),
    "LatentApplyOperationCFG": ("nodes_latent", {"operation": lambda latent: latent * 0.9}),
    "CFGOverride": ("nodes_custom_sampler", {"cfg": 2.5, "start_percent": 0.0, "end_percent": 1.0}),
}


def patched_by(model, *names):
    """The model after core's own nodes, which remember the run before: new ones for each."""
    import importlib

    importlib.import_module(
        "comfy_extras.nodes_post_processing"
    )  # nodes_latent and it need each other, and it goes first
    for name in names:
        module, inputs = GUIDANCE_NODES[name]
        node = getattr(importlib.import_module(f"comfy_extras.{module}"), name.split()[0])
        if hasattr(node, "execute"):
            model = node.execute(model, **inputs).result[0]
        else:
            (model,) = getattr(node(), node.FUNCTION)(model, **inputs)
    return model


@pytest.mark.parametrize("name", GUIDANCE_NODES)
@pytest.mark.parametrize("cfg", [5.0, 1.0])
def test_cores_guidance_nodes_work_on_the_text_and_the_pose_comes_on_top(model, golden, name, cfg):
    """In one step from noise: what core's own CFG guider gives with that node, and c − p of the model as it is."""
    import comfy.samplers

    positive, _, pose_negative = golden.conditionings(model)
    sigmas, sampler = torch.tensor([0.9, 0.0]), comfy.samplers.sampler_object("euler")
    core = comfy.samplers.CFGGuider(patched_by(model, name))
    core.set_conds(*golden.conditionings(model)[:2])
    core.set_cfg(cfg)
    text = run(core, golden.x, sigmas, sampler)
    branch = {}
    for key, conditioning in (("c", positive), ("p", pose_negative)):
        alone = comfy.samplers.CFGGuider(model)
        alone.inner_set_conds({"positive": conditioning})
        branch[key] = run(alone, golden.x, sigmas, sampler)
    ours = guider(patched_by(model, name), golden, cfg=cfg, pose_cfg=2.0, start=-1.0, end=2.0)
    found = run(ours, golden.x, sigmas, sampler)
    assert torch.isfinite(found).all() and relative(found, text) > 1e-3, "the pose has its part"
    normal = model.model.process_latent_in
    wanted = normal(text) + 2.0 * (normal(branch["c"]) - normal(branch["p"]))
    assert relative(normal(found), wanted) < 1e-4


@pytest.mark.parametrize(
    "names",
    [
        ("SkipLayerGuidanceDiTSimple", "APG", "RescaleCFG", "CFGZeroStar"),
        ("SkipLayerGuidanceDiT", "TCFG", "VideoLinearCFGGuidance", "CFGNorm"),
        ("NAGuidance", "FreSca", "Mahiro", "EpsilonScaling"),
    ],
    ids="+".join,
)
def test_a_whole_run_with_cores_guidance_nodes(model, golden, names):
    """Inside and outside of the pose's steps, several together; without a pose it is what core's guider makes of it."""
    import comfy.samplers
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(6, 5.0)
    assert torch.isfinite(run(guider(patched_by(model, *names), golden), golden.x, sigmas)).all()
    core = comfy.samplers.CFGGuider(patched_by(model, *names))
    core.set_conds(*golden.conditionings(model)[:2])
    core.set_cfg(5.0)
    wanted = run(core, golden.x, sigmas)
    assert torch.equal(run(guider(patched_by(model, *names), golden, pose_cfg=0.0), golden.x, sigmas), wanted)


def test_a_function_that_evaluates_the_model_again_gets_two_conditions_each_time(model, golden):
    """Before, in and after the guidance: every call of the batch function has two conditions, and the pose stays what it was."""
    import comfy.samplers

    sigmas, sampler, asked = torch.tensor([0.9, 0.0]), comfy.samplers.sampler_object("euler"), []

    def batch(args):
        asked.append([cond is not None for cond in args["conds"]])
        cond, uncond = args["conds"]
        return comfy.samplers.calc_cond_batch(
            args["model"], [cond, uncond], args["input"], args["sigma"], args["model_options"]
        )

    def again(args):
        options = args["model_options"]
        other = comfy.samplers.sampling_function(
            args["model"],
            args["input"] * 0.5,
            args["sigma"],
            args["uncond"],
            args["cond"],
            3.0,
            {**options, "sampler_post_cfg_function": []},
        )
        assert torch.isfinite(other).all()
        return args["denoised"]

    wanted = run(guider(model, golden, start=-1.0, end=2.0), golden.x, sigmas, sampler)
    for hooks in ((again,), (again, batch)):
        hooked = model.clone()
        hooked.set_model_sampler_post_cfg_function(again)
        if batch in hooks:
            hooked.set_model_sampler_calc_cond_batch_function(batch)
        assert relative(run(guider(hooked, golden, start=-1.0, end=2.0), golden.x, sigmas, sampler), wanted) < 1e-5
    assert asked == [[True, True], [True, False], [True, True]]


@pytest.mark.parametrize(
    "node", ["DualCFGGuider", "DualCFGGuider nested", "PerpNegGuider", "PerpNeg", "DualModelGuider", "BasicGuider"]
)
def test_cores_guiders_take_our_model_and_conditionings(model, golden, node):
    from comfy_extras import nodes_custom_sampler, nodes_perpneg
    from steadydancer.dancer.sampling import steadydancer_sigmas

    positive, negative, pose_negative = golden.conditionings(model)
    if node.startswith("DualCFG"):
        style = "nested" if "nested" in node else "regular"
        made = nodes_custom_sampler.DualCFGGuider.execute(model, positive, pose_negative, negative, 2.0, 5.0, style)
    elif node == "PerpNegGuider":
        made = nodes_perpneg.PerpNegGuider.execute(model, positive, negative, pose_negative, 5.0, 1.0)
    elif node == "DualModelGuider":
        made = nodes_custom_sampler.DualModelGuider.execute(model, positive, 5.0, model, negative)
    elif node == "BasicGuider":
        made = nodes_custom_sampler.BasicGuider.execute(model, positive)
    else:
        patched = nodes_perpneg.PerpNeg.execute(model, pose_negative, 1.0).result[0]
        assert torch.isfinite(run(guider(patched, golden), golden.x, steadydancer_sigmas(4, 5.0))).all()
        return
    assert torch.isfinite(run(made.result[0], golden.x, steadydancer_sigmas(4, 5.0))).all()


@pytest.mark.parametrize(
    "sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "res_multistep_cfg_pp", "gradient_estimation_cfg_pp"]
)
@pytest.mark.parametrize("cfg", [5.0, 1.0])
def test_samplers_that_ask_for_the_negative_get_it(model, golden, sampler, cfg):
    import comfy.samplers
    from steadydancer.dancer.sampling import steadydancer_sigmas

    found = run(
        guider(model, golden, cfg=cfg), golden.x, steadydancer_sigmas(6, 5.0), comfy.samplers.sampler_object(sampler)
    )
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_cores_caches_go_with_the_pose(model, golden, node):
    from comfy_extras import nodes_easycache
    from steadydancer.dancer.sampling import steadydancer_sigmas

    cached = getattr(nodes_easycache, f"{node}Node").execute(model, 0.3, 0.1, 0.95, False).result[0]
    found = run(guider(cached, golden), golden.x, steadydancer_sigmas(20, 5.0))
    assert torch.isfinite(found).all()


def test_heun_and_split_sigmas_count_in_the_list_given(model, golden):
    """heun evaluates a step's end too: that sigma belongs to the next step. A part of a schedule counts by itself."""
    import comfy.samplers
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(10, 5.0)
    with Watched(model) as seen:
        run(guider(model, golden, cfg=1.0), golden.x, sigmas, comfy.samplers.sampler_object("heun"))
    evaluated = [timestep for timestep in dict.fromkeys(seen.timesteps)]
    twice = {timestep for timestep in evaluated if seen.timesteps.count(timestep) > 2}
    assert twice == {float(int(sigma * 1000)) for sigma in sigmas[2:4]}, "steps 2 and 3 carry the pose branch"
    with Watched(model) as seen:
        run(guider(model, golden, cfg=1.0), golden.x, sigmas[5:])
    assert [seen.timesteps.count(float(int(sigma * 1000))) for sigma in sigmas[5:-1]] == [1, 2, 1, 1, 1]


def gaussian_error(sigmas):
    """Error of the solver on a model whose exact path is known: the data is Gaussian."""
    from steadydancer.dancer.sampling import sample_flow_unipc

    spread = 0.5  # data ~ N(0, spread²): the best guess is x·(1 − σ)·spread² / ((1 − σ)²·spread² + σ²)

    class Gaussian:
        latent_image = torch.ones(1)

        def __call__(self, x, sigma):
            s = sigma.double().view(-1, 1)
            return x * (1 - s) * spread**2 / ((1 - s) ** 2 * spread**2 + s**2)

    start, end = (((1 - s) ** 2 * spread**2 + s**2).sqrt() for s in (sigmas[0].double(), sigmas[-1].double()))
    got = sample_flow_unipc(Gaussian(), torch.ones(1, 1, dtype=torch.float64), sigmas, disable=True)
    return abs(float(got * start / end) - 1)


def test_unipc_is_of_second_order(comfyui):
    """A quarter of the step, in λ, leaves less than a sixteenth of the error."""
    coarse, fine = (gaussian_error(torch.sigmoid(torch.linspace(3, -3, steps + 1).double())) for steps in (10, 40))
    assert fine < coarse / 16


def test_unipc_from_sigma_one(comfyui):
    """Core's schedulers start at 1, where λ is infinite."""
    assert gaussian_error(torch.linspace(1.0, 0.05, 41)) < 2e-3


def test_lora_patches_the_network(comfyui, golden):
    import comfy.sd
    import comfy.utils
    from steadydancer.dancer.sampling import steadydancer_sigmas

    model = fresh_model(comfyui)
    (path,) = tiny.provide(comfyui / "models", "loras/test_lora.safetensors")
    lora = comfy.utils.load_torch_file(str(path))
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    keys = {key.removesuffix(".lora_up.weight") for key in lora if key.endswith("lora_up.weight")}
    assert len(patched.patches) == len(keys) == 8
    sigmas = steadydancer_sigmas(2, 5.0)
    plain = run(guider(model, golden), golden.x, sigmas)
    changed = run(guider(patched, golden), golden.x, sigmas)
    assert relative(changed, plain) > 1e-3
    assert torch.equal(run(guider(model, golden), golden.x, sigmas), plain), "the original is untouched"


def test_partial_load_gives_the_same(comfyui, golden):
    """Nothing but what cannot be moved stays on the card: every layer fetches its weights when it runs."""
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(2, 5.0)
    model = fresh_model(comfyui)
    whole = run(guider(model, golden), golden.x, sigmas)
    model.detach()
    model.load(device_to=model.load_device, lowvram_model_memory=64 * 1024)
    assert model.model.model_lowvram
    streamed = sum(getattr(m, "comfy_cast_weights", False) for m in model.model.diffusion_model.blocks.modules())
    assert streamed > 0
    inputs = golden.network_inputs()
    with torch.inference_mode():
        partial = model.model.diffusion_model(inputs.pop("x"), torch.tensor([731.0]), **inputs)
    assert (partial[0] - golden.numbers["out.noise_pred"]).abs().max() <= 5e-5
    model.detach()
    assert relative(run(guider(model, golden), golden.x, sigmas), whole) < 1e-6


def test_compile_breaks_no_graph(comfyui, golden):
    """The network, its stem and pose modules included, is one graph, with the same result.

    Under torch's own attention, as on GPUs: what ComfyUI takes on the CPU asks psutil for memory, which is no graph.
    """
    from comfy.ldm.modules.attention import attention_pytorch

    network = fresh_model(comfyui).model.diffusion_model
    inputs = golden.network_inputs()
    x = inputs.pop("x")
    options = {"optimized_attention_override": lambda default, *args, **kwargs: attention_pytorch(*args, **kwargs)}
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        out = compiled(x, torch.tensor([731.0]), **inputs, transformer_options=options)
    assert (out[0] - golden.numbers["out.noise_pred"]).abs().max() <= 5e-5


def test_cores_compile_node_works(comfyui, golden):
    """A whole guided step through ComfyUI's own compile wrapper gives what the plain model gives."""
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from steadydancer.dancer.sampling import steadydancer_sigmas

    sigmas = steadydancer_sigmas(1, 5.0)
    model = fresh_model(comfyui)
    plain = run(guider(model, golden), golden.x, sigmas)
    compiled = model.clone()
    compiled.model_options["transformer_options"]["optimized_attention_override"] = lambda default, *args, **kwargs: (
        attention_pytorch(*args, **kwargs)
    )
    torch._dynamo.reset()
    set_torch_compile_wrapper(model=compiled, backend="aot_eager")
    assert relative(run(guider(compiled, golden), golden.x, sigmas), plain) < 1e-4


@pytest.mark.parametrize("retain", ["", "0"])
def test_context_windows_see_the_references_of_the_whole_clip(model, retain):
    import comfy.context_windows as windows
    from steadydancer.dancer.sampling import steadydancer_sigmas

    def latent(name, frames):
        return tiny.recipe_input(name, 1, (1, 16, frames, 4, 4))

    frames, length = 41, 21
    pose, image = latent("pose", frames), latent("image", frames)
    mask = torch.ones(1, 1, frames, 4, 4)
    mask[:, :, 0] = 0
    condition = {"concat_latent_image": image, "concat_mask": mask, "pose_video_latent": pose}
    text = tiny.recipe_input("text", 1, (1, 512, 4096), 0.3)
    windowed = model.clone()
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule("standard_static"),
        windows.get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=7,
        dim=2,
        cond_retain_index_list=retain,
    )
    windows.create_prepare_sampling_wrapper(windowed)

    from steadydancer.dancer.guidance import SteadyDancerGuider

    guide = SteadyDancerGuider(windowed)
    guide.set_conds([[text, condition]], [[text, condition]])
    guide.set_cfg(1.0)
    guide.set_pose_guidance(None, 0.0, 0.0, 0.0)
    with Watched(model) as seen:
        out = run(guide, latent("noise", frames), steadydancer_sigmas(1, 5.0))
    normal = model.model.process_latent_in
    assert out.shape == (1, 16, frames, 4, 4) and torch.isfinite(out).all()
    assert len(seen.calls) == 3
    starts = (0, 14, 20)
    for (_, given), start in zip(seen.calls, starts):
        assert torch.allclose(given["ref_latent"], normal(image)[0, :, :1], atol=1e-5)
        assert torch.allclose(given["ref_pose_latent"], normal(pose)[0, :, :1], atol=1e-5)
        assert torch.allclose(
            given["pose_latents"][:, -length:][:, 1:], normal(pose)[0, :, start + 1 : start + length], atol=1e-5
        )
        if retain and start:
            # The frame that is put before a window and dropped again carries the picture, so it carries its pose too.
            assert torch.allclose(given["pose_latents"][:, 0], normal(pose)[0, :, 0], atol=1e-5)


def test_a_latent_of_another_size_is_refused(model, golden):
    from steadydancer.dancer.sampling import steadydancer_sigmas

    with pytest.raises(ValueError, match="The pose video is 64×96 with 17 frames, but the latent.*64×96 with 13"):
        run(guider(model, golden), golden.x[:, :, :4], steadydancer_sigmas(2, 5.0))


def test_a_plain_wan_model_is_unchanged(comfyui):
    import comfy.model_base
    import comfy.sd

    (path,) = tiny.provide(comfyui / "models", "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors")
    assert type(comfy.sd.load_diffusion_model(str(path)).model) is comfy.model_base.WAN21
