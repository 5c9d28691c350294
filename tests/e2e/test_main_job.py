"""The main job through a real server: the shipped prompts, real picture and poses where they are at hand."""

import re
import shutil

import av
import numpy as np
import pytest
from PIL import Image
from support import ROOT, fixtures, tiny
from support.client import Refused
from support.video import probe
from support.workflows import load, with_tiny_text_encoder

MODELS = (
    "diffusion_models/Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors",
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "clip_vision/clip_vision_h.safetensors",
    "vae/wan_2.1_vae.safetensors",
)


@pytest.fixture(scope="module")
def server(start_comfy):
    """A server that forgets: every node of every prompt is executed."""
    server = start_comfy("--cache-none")
    tiny.provide(server.base_directory / "models", *MODELS)
    return server


def shipped(name: str, width=64, height=96, length=17, steps=4, seed=106060) -> dict:
    """The shipped prompt with the tiny UMT5, and size, length and steps that a CPU can do."""
    prompt = with_tiny_text_encoder(load(ROOT / "example_workflows" / "api" / f"{name}.json"))
    for node in prompt.values():
        inputs = node["inputs"]
        match node["class_type"]:
            case "SteadyDancerFitImage":
                inputs.update(area="custom", width=width, height=height)
            case "SteadyDancerToVideo":
                inputs["length"] = length
            case "SteadyDancerSchedule":
                inputs["steps"] = steps
            case "RandomNoise":
                inputs["noise_seed"] = seed
    return prompt


def light(server, **sizes) -> dict:
    """The basic prompt without CLIP vision, which is optional, and with small videos: what is slow and not tested here."""
    prompt = shipped("steadydancer_basic", **sizes)
    condition = prompt[the(prompt, "SteadyDancerToVideo")]["inputs"]
    for name in ("clip_vision_output", "pose_clip_vision_output"):
        del condition[name]
    del prompt[the(prompt, "CLIPVisionLoader")], prompt[the(prompt, "SteadyDancerClipVision")]
    for node in prompt.values():
        if node["class_type"] == "LoadVideo":
            small = server.base_directory / "input" / f"small_{node['inputs']['file']}"
            if not small.exists():
                write_video(small, draw_frames(small.with_name(node["inputs"]["file"]), 17), (64, 96))
            node["inputs"]["file"] = small.name
    return prompt


def draw_frames(video, count) -> list:
    with av.open(video) as container:
        return [frame.to_image() for _, frame in zip(range(count), container.decode(video=0))]


def the(prompt: dict, class_type: str) -> str:
    """The id of the one node of that class."""
    (node_id,) = (node_id for node_id, node in prompt.items() if node["class_type"] == class_type)
    return node_id


def with_saved_latent(prompt: dict) -> dict:
    """The prompt, saving the latent instead of the video."""
    sample = the(prompt, "SamplerCustomAdvanced")
    for class_type in ("VAEDecode", "CreateVideo", "SaveVideo"):
        del prompt[the(prompt, class_type)]
    prompt["save"] = {"class_type": "SaveLatent", "inputs": {"samples": [sample, 0], "filename_prefix": "latent"}}
    return prompt


def latent_of(server, prompt) -> np.ndarray:
    from safetensors.numpy import load_file

    result = server.succeed(with_saved_latent(prompt), timeout=600)
    assert not result.cached
    return load_file(result.files[-1])["latent_tensor"]


def test_picture_and_poses_become_a_video(server):
    """With the authors' own picture and pose frames where they are at hand, else with the drawn dancer."""
    prompt = shipped("steadydancer_basic")
    if real := fixtures():
        images = server.base_directory / "input"
        shutil.copy(real / "dance01" / "ref_image.png", images / "real_picture.png")
        for kind, loader in (("positive", "2. Pose video"), ("negative", "2. The same, changed (negative)")):
            write_video(
                images / f"real_{kind}.mp4",
                [Image.open(file) for file in sorted((real / "dance01" / kind).glob("*.jpg"))],
            )
            (node,) = (node for node in prompt.values() if node.get("_meta", {}).get("title") == loader)
            node["inputs"]["file"] = f"real_{kind}.mp4"
        prompt[the(prompt, "LoadImage")]["inputs"]["image"] = "real_picture.png"
    with server.events() as events:
        result = server.succeed(prompt, timeout=600)
    (video,) = result.files
    made = probe(video)
    assert (made.width, made.height, made.frames, made.rate, made.codec) == (64, 96, 17, 16.0, "h264")
    if real:
        assert any(
            "negative pose video has 4 frames: held on the last one up to 17" in text for _, text in events.texts
        )
    assert "unexpected" not in server.log() and "unet missing" not in server.log()


def write_video(path, pictures, size=(656, 896)):
    """PIL pictures as a lossless video."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=16)
        stream.width, stream.height, stream.pix_fmt, stream.options = *size, "rgb24", {"crf": "0"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture.resize(size))))
        container.mux(stream.encode())


def test_a_shorter_or_longer_pose_video_is_said(server):
    for length, said in ((13, "the first 13 of 17 poses"), (25, "held on the last one up to 25")):
        with server.events() as events:
            assert probe(server.succeed(light(server, steps=1, length=length)).files[0]).frames == length
        assert any(said in text for _, text in events.texts)


def test_latent_previews_and_steps_arrive(start_comfy):
    server = start_comfy("--preview-method", "latent2rgb")
    tiny.provide(server.base_directory / "models", *MODELS)
    prompt = light(server, steps=3)
    with server.events() as events:
        server.succeed(prompt, timeout=600)
        events.wait_for("preview", timeout=10)
    said = [text for node, text in events.texts if node == the(prompt, "SamplerCustomAdvanced")]
    assert said[0] == "Step 1 of 3" and said[-1].startswith("3 steps in ")
    assert "Step 3 of 3, " in said[2] and said[2].endswith(" left") and " s a step, " in said[2]


def test_a_seed_decides_the_result(server):
    first = latent_of(server, light(server, steps=2))
    assert np.array_equal(first, latent_of(server, light(server, steps=2)))
    assert not np.allclose(first, latent_of(server, light(server, steps=2, seed=1)), atol=1e-3)
    assert first.shape == (1, 16, 5, 12, 8)


def test_each_video_of_a_batch_is_what_it_would_be_alone(server):
    """Item 1 of a batch of two equals a single run with item 1's noise, to 1e-5 of the largest value."""
    prompt = light(server, steps=2)
    prompt[the(prompt, "SteadyDancerToVideo")]["inputs"]["batch_size"] = 2
    both = latent_of(server, prompt)
    noise, sample = the(prompt, "RandomNoise"), the(prompt, "SamplerCustomAdvanced")
    prompt = light(server, steps=2)
    prompt[noise] = {"class_type": "NoiseOfBatchItem", "inputs": {"noise_seed": 106060, "item": 1, "batch_size": 2}}
    assert prompt[sample]["inputs"]["noise"][0] == noise
    alone = latent_of(server, prompt)
    assert np.abs(both[1:] - alone).max() <= 1e-5 * np.abs(alone).max()


def test_more_than_81_frames_by_context_windows(server):
    result = server.succeed(shipped("steadydancer_long", width=32, height=48, length=161, steps=1), timeout=600)
    made = probe(result.files[0])
    assert (made.width, made.height, made.frames) == (32, 48, 161)
    assert "Context window 3/3: frames 20-40 of 41" in server.log()


def test_core_loader_and_sampler_run_it(server):
    prompt = light(server)
    condition = the(prompt, "SteadyDancerToVideo")
    for class_type in ("SteadyDancerGuider", "SteadyDancerSchedule", "SteadyDancerFlowUniPC", "RandomNoise"):
        del prompt[the(prompt, class_type)]
    prompt[the(prompt, "SamplerCustomAdvanced")] = {
        "class_type": "KSampler",
        "inputs": {
            "model": [the(prompt, "UNETLoader"), 0],
            "positive": [condition, 0],
            "negative": [condition, 1],
            "latent_image": [condition, 3],
            "seed": 1,
            "steps": 2,
            "cfg": 5.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    }
    assert probe(server.succeed(prompt, timeout=600).files[0]).frames == 17


def test_the_pose_latent_is_normalised_once(comfyui):
    """What the network gets for a pose frame is process_latent_in(vae.encode(frame)), through node and model."""
    import asyncio

    import comfy.sd
    import comfy.utils
    import torch
    from steadydancer.nodes import SteadyDancerExtension

    nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(SteadyDancerExtension().get_node_list())}
    folder = comfyui / "models"
    model = comfy.sd.load_diffusion_model(
        str(tiny.provide(folder, "diffusion_models/Wan21_SteadyDancer_fp32.safetensors")[0])
    )
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(tiny.provide(folder, "vae/wan_2.1_vae.safetensors")[0])))
    random = torch.Generator().manual_seed(3)
    picture, poses, negative_poses = (torch.rand(n, 48, 32, 3, generator=random) for n in (1, 5, 5))
    text = [[torch.zeros(1, 512, 4096), {}]]
    positive, negative, pose_negative, latent = (
        nodes["SteadyDancerToVideo"]
        .execute(text, text, vae, picture, poses, 32, 48, 5, 1, negative_pose_video=negative_poses)
        .result
    )
    expected = model.model.process_latent_in(vae.encode(poses))
    expected_negative = model.model.process_latent_in(vae.encode(negative_poses))
    for conditioning, pose in ((positive, expected), (negative, expected), (pose_negative, expected_negative)):
        conds = model.model.extra_conds(
            **conditioning[0][1], cross_attn=conditioning[0][0], noise=latent["samples"], device="cpu"
        )
        assert torch.allclose(conds["pose_latents"].cond, pose, atol=1e-5)
        assert torch.allclose(conds["ref_pose_latent"].cond, expected[:, :, :1], atol=1e-5)
        reference = model.model.process_latent_in(vae.encode(picture))
        assert torch.allclose(conds["ref_latent"].cond, reference, atol=1e-4)
        mask = conds["c_concat"].cond[:, :4]
        assert mask[:, :, 0].eq(1).all() and mask[:, :, 1:].eq(0).all()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 60, "height": 96}, "The size is 60×96, but the model needs multiples of 16. Use 64×96."),
        ({"width": 64, "height": 8000}, "The size is 64×8000. Use 16 to 4096 pixels a side."),
        ({"length": 80}, "The length is 80 frames, but the VAE packs frames by four after the first. Use 77 or 81."),
        ({"length": 0}, "The length is 0 frames. Use 1 to 4096."),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_loaded(comfy_server, wrong, sentence):
    tiny.provide(comfy_server.base_directory / "models", *MODELS)
    prompt = light(comfy_server)
    prompt[the(prompt, "SteadyDancerToVideo")]["inputs"].update(wrong)
    with pytest.raises(Refused, match=re.escape(sentence)):
        comfy_server.run(prompt)


BAD_INPUT = {
    "a length of another node that is not 4n+1": (
        {"SteadyDancerToVideo": {"length": ["size", 1]}},
        "The length is 96 frames, but the VAE packs frames by four after the first. Use 93 or 97.",
    ),
    "a picture in place of poses": (
        {"SteadyDancerToVideo": {"pose_video": ["picture", 0]}},
        "The pose video is a single picture, so nobody would dance. Connect the images of Draw Pose",
    ),
    "a latent of another length": (
        {"SamplerCustomAdvanced": {"latent_image": ["latent", 0]}},
        "The pose video is 64×96 with 17 frames, but the latent to be sampled is 64×96 with 33.",
    ),
    "another aspect with fit off": (
        {"SteadyDancerFitImage": {"area": "custom", "width": 160, "height": 64, "fit": "off"}},
        "does not have the shape of 160×64. Choose what to do with it in 'fit'",
    ),
    "a VAE that is not for video": (
        {"SteadyDancerToVideo": {"vae": ["other", 0]}},
        "The connected VAE is not for Wan 2.1 video",
    ),
    "a pose video with no frames": (
        {"SteadyDancerToVideo": {"pose_video": ["empty", 0]}},
        "The pose video has no frames. Connect one with at least one image.",
    ),
    "a model that is not SteadyDancer": (
        {"UNETLoader": {"unet_name": "wan2.1_i2v_480p_14B_fp16.safetensors"}},
        "Pose guidance needs a SteadyDancer model, and the connected model is another one.",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_a_plain_sentence(comfy_server, case):
    changes, sentence = BAD_INPUT[case]
    tiny.provide(
        comfy_server.base_directory / "models", *MODELS, "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors"
    )
    prompt = light(comfy_server)
    prompt["other"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    prompt["empty"] = {"class_type": "NoImages", "inputs": {}}
    prompt["picture"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 96, "batch_size": 1, "color": 0},
    }
    prompt["size"] = {"class_type": "GetImageSize", "inputs": {"image": ["picture", 0]}}
    size = {"width": 64, "height": 96, "length": 33, "batch_size": 1}
    prompt["latent"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": size}
    for class_type, inputs in changes.items():
        prompt[the(prompt, class_type)]["inputs"].update(inputs)
    result = comfy_server.run(prompt, timeout=600)
    assert sentence in (result.error or ""), result.error


def test_a_truncated_model_file_is_refused_and_the_next_prompt_works(comfy_server):
    models = comfy_server.base_directory / "models"
    (whole,) = tiny.provide(models, "diffusion_models/Wan21_SteadyDancer_fp32.safetensors")
    (models / "diffusion_models" / "cut.safetensors").write_bytes(whole.read_bytes()[:100_000])
    tiny.provide(models, *MODELS)
    prompt = light(comfy_server, steps=1)
    loader = prompt[the(prompt, "UNETLoader")]["inputs"]
    good, loader["unet_name"] = loader["unet_name"], "cut.safetensors"
    broken = comfy_server.run(prompt, timeout=600)
    assert broken.error
    loader["unet_name"] = good
    comfy_server.succeed(prompt, timeout=600)


def test_cancel_ends_within_a_few_steps_and_the_next_prompt_works(comfy_server):
    tiny.provide(comfy_server.base_directory / "models", *MODELS)
    prompt = light(comfy_server, steps=200, width=128, height=192)
    with comfy_server.events() as events:
        prompt_id = comfy_server.queue(prompt)
        events.wait_for("progress", lambda data: data["max"] == 200 and data["value"] >= 2, timeout=300)
        pressed = events.named("progress")[-1]["value"]
        comfy_server.interrupt(prompt_id)
        result = comfy_server.wait(prompt_id, timeout=60)
        events.wait_for("progress_text", lambda data: data["text"] == "Cancelled.")
    assert result.interrupted
    assert events.texts[-1][0] == the(prompt, "SamplerCustomAdvanced"), "no time left stays there"
    assert events.named("progress")[-1]["value"] <= pressed + 10
    comfy_server.succeed(light(comfy_server, steps=1), timeout=600)


def test_the_4_step_lora_with_other_settings_is_said(comfyui):
    import comfy.model_patcher
    import torch
    from steadydancer.services.sampling import DISTILLED, against_distillation

    model = comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    assert against_distillation(model, 5.0, 40) == ""
    model.set_attachments(DISTILLED, True)
    model = model.clone()
    assert against_distillation(model, 1.0, 4) == ""
    assert against_distillation(model, 5.0, 40).endswith("wants cfg 1 and 4 steps, and this is cfg 5 and 40 steps.")
