"""The network against the published numbers, loaded by ComfyUI's own loader from files in the published layouts."""

import pytest
import torch
from support import tiny
from support.golden import Golden


@pytest.fixture(scope="module")
def golden():
    return Golden()


def load(comfyui, name="fp32", **options):
    import comfy.sd

    (path,) = tiny.provide(comfyui / "models", f"diffusion_models/Wan21_SteadyDancer_{name}.safetensors")
    return comfy.sd.load_diffusion_model(str(path), model_options=options)


@pytest.fixture(scope="module")
def model(comfyui):
    return load(comfyui)


def velocity(model, inputs, timestep=731.0):
    """One evaluation by the whole model, [B, 16, T, h, w]; the network computes in the model's own dtype."""
    dtype = model.model.get_dtype_inference()
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    x = inputs.pop("x")
    with torch.inference_mode():
        return model.model.diffusion_model(x, torch.full((x.shape[0],), timestep), **inputs).float()


def test_forward_equals_the_published_one(model, golden):
    error = (velocity(model, golden.network_inputs())[0] - golden.numbers["out.noise_pred"]).abs().max().item()
    print(f"forward: max abs error {error:.1e}")
    assert error <= 5e-5


def test_pose_modules_equal_the_published_ones(model, golden):
    from steadydancer.dancer.network import fuse_pose

    network = model.model.diffusion_model
    with torch.inference_mode():
        temporal = network.condition_embedding_temporal(golden.pose)
        spatial = network.condition_embedding_spatial(golden.pose[0].transpose(0, 1))
        fused = fuse_pose(network.condition_embedding_temporal, network.condition_embedding_spatial, golden.pose)
        aligned = network.condition_embedding_align(fused, golden.x)
    assert torch.allclose(temporal, golden.numbers["mid.temporal.0"], atol=1e-5)
    assert torch.allclose(spatial, golden.numbers["mid.spatial.0"], atol=1e-5)
    assert torch.allclose(aligned, golden.numbers["mid.aligned.0"], atol=1e-5)


def test_references_default_to_the_first_frames(model, golden):
    inputs = golden.network_inputs()
    explicit = velocity(
        model, {**inputs, "ref_latent": inputs["x"][:, -16:, :1], "ref_pose_latent": inputs["pose_latents"][:, :, :1]}
    )
    del inputs["ref_latent"], inputs["ref_pose_latent"]
    assert torch.equal(velocity(model, inputs), explicit)


def test_a_sample_does_not_see_the_rest_of_its_batch(model, golden):
    one = golden.network_inputs()
    other = {**one, "x": one["x"].flip(3), "pose_latents": golden.negative_pose, "context": golden.negative_text}
    together = velocity(model, {name: torch.cat((one[name], other[name])) for name in one})
    assert torch.allclose(together[:1], velocity(model, one), atol=1e-5)
    assert torch.allclose(together[1:], velocity(model, other), atol=1e-5)


def test_odd_latent_sizes_are_padded_and_cut_back(model, golden):
    inputs = {
        name: tensor[..., :11, :7] if tensor.ndim == 5 else tensor for name, tensor in golden.network_inputs().items()
    }
    assert velocity(model, inputs).shape == (1, 16, 5, 11, 7)


def test_without_a_pose_the_error_says_what_to_do(model, golden):
    inputs = golden.network_inputs()
    del inputs["pose_latents"]
    with pytest.raises(ValueError, match="got no pose video.*SteadyDancer Conditioning"):
        velocity(model, inputs)


TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2, "fp8_scaled": 6e-2}


@pytest.mark.parametrize("name", TOLERANCE)
def test_every_container_loads_whole_and_close(comfyui, golden, model, caplog, name):
    options = {} if name in ("fp32", "fp8_scaled") else {"dtype": {"fp16": torch.float16, "bf16": torch.bfloat16}[name]}
    with caplog.at_level("INFO"):
        loaded = load(comfyui, name, **options)
    complaints = [line for line in caplog.messages if "unexpected" in line or "missing" in line or "left over" in line]
    assert not complaints
    for key, parameter in loaded.model.diffusion_model.named_parameters():
        if key.startswith(("condition_embedding_", "patch_embedding")):
            assert parameter.dtype == torch.float32, key
    reference = velocity(model, golden.network_inputs())
    error = ((velocity(loaded, golden.network_inputs()) - reference).norm() / reference.norm()).item()
    print(f"{name}: relative error against float32 {error:.1e}")
    assert error <= TOLERANCE[name]


def test_damaged_pose_tensors_are_restored(comfyui, golden, model):
    """What converters do to the small tensors: halves, scaled float8, lost dimensions of size 1, other prefixes."""
    import comfy.sd

    tensors = dict(tiny.weights("steadydancer_tiny.keys.tsv"))
    key = "condition_embedding_align.norm1.weight"
    tensors[key] = tensors[key].reshape(128, 1, 1)
    key = "condition_embedding_spatial.fc.0.weight"
    tensors["condition_embedding_spatial.fc.0.scale_weight"] = torch.tensor([0.25])
    tensors[key] = tensors[key] * 4
    key = "patch_embedding_fuse.weight"
    tensors[key] = tensors[key].double()
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in tensors.items()}
    loaded = comfy.sd.load_diffusion_model_state_dict(tensors)
    reference = velocity(model, golden.network_inputs())
    assert torch.allclose(velocity(loaded, golden.network_inputs()), reference, atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_file_without_all_pose_tensors_is_refused(comfyui, damage):
    import comfy.sd

    tensors = dict(tiny.weights("steadydancer_tiny.keys.tsv"))
    if damage == "missing":
        del tensors["condition_embedding_align.proj_p.weight"]
    else:
        tensors["condition_embedding_align.proj_p.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match="damaged or incomplete.*Download the file again"):
        comfy.sd.load_diffusion_model_state_dict(tensors)


def test_the_published_layout_is_the_networks_own(comfyui):
    """Key by key the 14B layout, built on the meta device: nothing missing, nothing more."""
    import comfy.ops
    from steadydancer.dancer.network import SteadyDancerModel

    published = tiny.shapes("steadydancer_14b.keys.tsv")
    network = SteadyDancerModel(
        model_type="i2v",
        dim=5120,
        ffn_dim=13824,
        num_heads=40,
        num_layers=40,
        device="meta",
        dtype=torch.bfloat16,
        operations=comfy.ops.disable_weight_init,
    )
    ours = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert ours == published
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == 16_396_718_736


def test_a_dropped_model_frees_its_weights_at_once(comfyui):
    """No reference cycle: nobody waits for the garbage collector with 16 GB in hand."""
    import gc
    import weakref

    model = load(comfyui)
    network = weakref.ref(model.model.diffusion_model)
    gc.collect()
    gc.disable()
    try:
        del model
        assert network() is None
    finally:
        gc.enable()


@pytest.mark.own_process
def test_clip_vision_sees_what_the_published_code_shows_it(comfyui):
    """The published way: squashed by torch's bicubic without antialiasing, then CLIP's mean and deviation."""
    import comfy.clip_vision
    from steadydancer.nodes.conditioning import SteadyDancerClipVision
    from steadydancer.pose.draw import draw
    from steadydancer.pose.styles import STYLES
    from support.poses import clip, walker

    (path,) = tiny.provide(comfyui / "models", "clip_vision/clip_vision_h.safetensors")
    vision = comfy.clip_vision.load(str(path))
    encoder = vision.model.vision_model.encoder
    encoder.layers = encoder.layers[:3]  # of 32: what goes in is what may differ
    picture = torch.rand(1, 300, 200, 3, generator=torch.Generator().manual_seed(0))
    poses = torch.from_numpy(draw(clip(walker(2), width=800, height=1000), STYLES["SteadyDancer"]))

    def published(images):
        x = torch.nn.functional.interpolate(images[:1].movedim(-1, 1), size=(224, 224), mode="bicubic").clamp(0, 1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (vision.image_mean, vision.image_std))
        return vision.model(pixel_values=(x - mean) / std, intermediate_output=-2)[1]

    def error(output, images):
        wanted = published(images)
        return (output.penultimate_hidden_states - wanted).norm() / wanted.norm()

    with torch.inference_mode():
        seen = SteadyDancerClipVision.execute(vision, picture, poses).result
        for output, images in zip(seen, (picture, poses), strict=True):
            assert error(output, images) < 0.01  # core rounds to 8 bits
        assert error(vision.encode_image(poses[:1], crop=False), poses) > 10 * error(seen[1], poses)
