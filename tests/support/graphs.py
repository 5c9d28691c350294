"""The example workflows as data: nodes in columns, links by name. make_workflows.py turns them into files."""

PERSON = "steadydancer_example_person.png"
DANCE = "steadydancer_example_dance.mp4"
POSE = "steadydancer_example_pose.json"
POSES = "steadydancer_example_poses.mp4"
NEGATIVE_POSES = "steadydancer_example_negative_poses.mp4"

HUB = "https://huggingface.co"
REPACKAGED = f"{HUB}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
MODELS = {
    "Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors": (
        f"{HUB}/Kijai/WanVideo_comfy_fp8_scaled/resolve/main/SteadyDancer",
        "diffusion_models",
    ),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (f"{REPACKAGED}/text_encoders", "text_encoders"),
    "clip_vision_h.safetensors": (f"{REPACKAGED}/clip_vision", "clip_vision"),
    "wan_2.1_vae.safetensors": (f"{REPACKAGED}/vae", "vae"),
    "wan2.1_t2v_14B_bf16.safetensors": (f"{REPACKAGED}/diffusion_models", "diffusion_models"),
}

PROMPT = (
    "A person in a blue jacket stands in a bright room, facing the camera, and dances: the arms rise and swing, the "
    "hips sway, the knees bend in rhythm. The person smiles, the mouth is closed, the eyes look into the camera. "
    "Even light, steady camera."
)
NEGATIVE = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)


def node(key, type, column, row, /, *, title=None, size=(None, None), **widgets):
    """One node at a grid place; a column is 440 wide, a row 20 high."""
    ours = type.startswith("SteadyDancer")
    properties = {
        "cnr_id": "steadydancer" if ours else "comfy-core",
        "ver": "0.1.0" if ours else "0.30.0",
        "Node name for S&R": type,
    }
    models = [
        {"name": value, "url": f"{MODELS[value][0]}/{value}", "directory": MODELS[value][1]}
        for value in widgets.values()
        if value in MODELS
    ]
    if models:
        properties["models"] = models
    return {
        "key": key,
        "type": type,
        "title": title,
        "pos": [column * 440, row * 20],
        "width": size[0],
        "height": size[1],
        "widgets": widgets,
        "properties": properties,
    }


def note(key, column, row, text, height, title="Read me", width=400):
    return node(key, "MarkdownNote", column, row, title=title, size=(width, height), **{"": text})


def link(path):
    """'picture.IMAGE > fit.image' as a link."""
    source, target = (end.strip().split(".", 1) for end in path.split(">"))
    return [*source, *target]


BASIC_NOTE = """\
## A picture dances

1. **Picture**: load your person (step 1). Head to toe works best when the dance shows the whole body.
2. **Poses**: load the drawn pose video and its changed twin (the negative). The twin makes the person keep their own
   proportions; without it, delete its two nodes.
3. **Run.** 81 frames at 576p and 40 steps are 91 passes through a 14B model.

**Models** (ComfyUI names what is missing, with links; `steadydancer_auto` downloads by itself):
- `diffusion_models/Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors` 16.4 GB
- `text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors`
- `clip_vision/clip_vision_h.safetensors`
- `vae/wan_2.1_vae.safetensors`

**Poses** must be drawn as SteadyDancer saw them in training: red and blue exchanged against the usual drawing, no face.

**Faster**: a Wan I2V step-distilled LoRA, 4 steps, cfg 1. **Smaller**: area 480p, shift 3.
"""

BASIC_NODES = [
    note("note", -1, 0, BASIC_NOTE, 560),
    node("picture", "LoadImage", 0, 0, title="1. Picture of the person", size=(280, 600), image=PERSON),
    node("poses", "LoadVideo", 0.7, 0, title="2. Pose video", size=(280, 600), file=POSES),
    node("negative_poses", "LoadVideo", 1.4, 0, title="2. The same, changed (negative)", size=(280, 600), file=NEGATIVE_POSES),
    node("fit", "SteadyDancerFitImage", 0, 34, size=(280, None), area="576p (1024×576)"),
    node("pose_frames", "GetVideoComponents", 0.7, 34, size=(280, None)),
    node("first_pose", "ImageFromBatch", 0.7, 42, size=(280, None), title="First pose", batch_index=0, length=1),
    node("negative_pose_frames", "GetVideoComponents", 1.4, 34, size=(280, None)),
    node("unet", "UNETLoader", 2.15, 0, size=(310, None), unet_name="Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors", weight_dtype="default"),
    node("clip", "CLIPLoader", 2.15, 7, size=(310, None), clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan"),
    node("clip_vision", "CLIPVisionLoader", 2.15, 15, size=(310, None), clip_name="clip_vision_h.safetensors"),
    node("vae", "VAELoader", 2.15, 21, size=(310, None), vae_name="wan_2.1_vae.safetensors"),
    node("see_picture", "CLIPVisionEncode", 2.15, 34, size=(310, None), title="CLIP Vision: picture", crop="none"),
    node("see_pose", "CLIPVisionEncode", 2.15, 41, size=(310, None), title="CLIP Vision: first pose", crop="none"),
    node("positive", "CLIPTextEncode", 2.95, 0, title="Prompt", size=(400, 260), text=PROMPT),
    node("negative", "CLIPTextEncode", 2.95, 15, title="Negative prompt", size=(400, 220), text=NEGATIVE),
    node("condition", "SteadyDancerToVideo", 3.95, 0, size=(310, None), length=81, batch_size=1),
    node("guider", "SteadyDancerGuider", 3.95, 20, size=(310, None), cfg=5.0, pose_cfg=1.0, start=0.1, end=0.4),
    node("schedule", "SteadyDancerSchedule", 3.95, 32, size=(310, None), steps=40, shift=5.0),
    node("solver", "SteadyDancerFlowUniPC", 3.95, 38, size=(310, None)),
    node("noise", "RandomNoise", 3.95, 41, size=(310, None), noise_seed=106060, control_after_generate="fixed"),
    node("sample", "SamplerCustomAdvanced", 4.75, 0, size=(400, None)),
    node("decode", "VAEDecode", 4.75, 8, size=(400, None)),
    node("video", "CreateVideo", 4.75, 12, size=(400, None), fps=16.0),
    node("save", "SaveVideo", 4.75, 19, size=(400, 540), title="3. The video", filename_prefix="video/SteadyDancer"),
]  # fmt: skip
BASIC_GROUPS = [
    ["1, 2. Your picture and its poses", -20, -80, 940, 1000],
    ["Models", 926, -80, 350, 640],
    ["Prompts", 1278, -80, 440, 640],
    ["Conditioning and sampling", 1718, -80, 350, 1000],
    ["3. Result", 2070, -80, 440, 1000],
]
BASIC_LINKS = [
    "picture.IMAGE > fit.image",
    "picture.IMAGE > see_picture.image",
    "poses.VIDEO > pose_frames.video",
    "negative_poses.VIDEO > negative_pose_frames.video",
    "pose_frames.images > first_pose.image",
    "first_pose.IMAGE > see_pose.image",
    "clip_vision.CLIP_VISION > see_picture.clip_vision",
    "clip_vision.CLIP_VISION > see_pose.clip_vision",
    "clip.CLIP > positive.clip",
    "clip.CLIP > negative.clip",
    "positive.CONDITIONING > condition.positive",
    "negative.CONDITIONING > condition.negative",
    "vae.VAE > condition.vae",
    "see_picture.CLIP_VISION_OUTPUT > condition.clip_vision_output",
    "see_pose.CLIP_VISION_OUTPUT > condition.pose_clip_vision_output",
    "fit.image > condition.start_image",
    "fit.width > condition.width",
    "fit.height > condition.height",
    "pose_frames.images > condition.pose_video",
    "negative_pose_frames.images > condition.negative_pose_video",
    "unet.MODEL > guider.model",
    "condition.positive > guider.positive",
    "condition.negative > guider.negative",
    "condition.pose_negative > guider.pose_negative",
    "noise.NOISE > sample.noise",
    "guider.GUIDER > sample.guider",
    "solver.SAMPLER > sample.sampler",
    "schedule.SIGMAS > sample.sigmas",
    "condition.latent > sample.latent_image",
    "sample.output > decode.samples",
    "vae.VAE > decode.vae",
    "decode.IMAGE > video.images",
    "video.VIDEO > save.video",
]

LONG_NOTE = """\
## A longer dance

Like `steadydancer_basic`, for more frames than the model was made for: **Wan Context Windows** lets it work on 81 frames
at a time, about 28 of them shared with the window before, and every window sees the picture and the first pose of the whole
clip.

- Set the length in **SteadyDancer Conditioning**: 161 frames are ten seconds. It must be 4·n + 1.
- Time grows with the windows: 161 frames are three or four of them, so the run takes that many times as long.
- Leave *retain_first_frame* off: it would draw the picture into every window.
"""


AUTO_NOTE = """\
## A picture dances: models come by themselves

1. **Picture**: load your person (step 1). Head to toe works best when the dance shows the whole body.
2. **Poses**: load the drawn pose video and its changed twin (the negative). The twin makes the person keep their own
   proportions; without it, delete its two nodes.
3. **Run.** What is not on this machine is downloaded first, once: about 25 GB, with progress under the loader.
   Cancel keeps what was fetched.

**GGUF / fp8 Selector** chooses the variant that suits your GPU and says why. Disconnect it to choose one yourself in the
loader; your own files are listed last there.

**Faster**: turn on *step_distill* in the loader, then 4 steps and cfg 1. **Smaller**: area 480p, shift 3.
"""

PLANNED_NOTE = """\
## A picture dances, and it is known beforehand whether it fits

**VRAM Budget Planner** reads this GPU, chooses the variant that is done first, and shows what every phase takes. Its plan
goes to the loader, which keeps that much on the card; its tile size goes to the decoder. If it cannot fit, the loader says so
before anything is fetched, and what to change.

**VRAM Report** compares the run with the plan afterwards, and the next plan knows.

- *gpu*: another card shows what it could do; set it back to *this one* to run.
- Changed the number of frames in **SteadyDancer Conditioning**, the steps or the guidance? Change them in the planner too.
"""

# What takes the place of core's four loaders.
AUTO_SOURCES = {
    "unet.MODEL": "loader.MODEL",
    "clip.CLIP": "loader.CLIP",
    "clip_vision.CLIP_VISION": "loader.CLIP_VISION",
    "vae.VAE": "loader.VAE",
}


def automatic(path):
    """A link of the basic graph, from the one loader."""
    source, target = (end.strip() for end in path.split(">"))
    return link(f"{AUTO_SOURCES.get(source, source)} > {target}")


T2V_NOTE = """\
## A prompt becomes a video

**Load from Catalogue** fetches Wan 2.1 1.3B, its text encoder and its VAE (about 10 GB) and loads them. Choose another
family there: VACE, SCAIL, Wan 2.2, Z-Image, Qwen-Image-Edit. Each comes with the encoders that it needs; the rest of the
graph is core's.
"""

T2V_NODES = [
    note("note", -1, 0, T2V_NOTE, 240),
    node("loader", "SteadyDancerCatalogLoader", 0, 0, variant="wan2.1/t2v-1.3b"),
    node("positive", "CLIPTextEncode", 1, 0, title="Prompt", size=(400, 180), text=PROMPT),
    node("negative", "CLIPTextEncode", 1, 11, title="Negative prompt", size=(400, 180), text=NEGATIVE),
    node("latent", "EmptyHunyuanLatentVideo", 1, 22, width=832, height=480, length=33, batch_size=1),
    node("shift", "ModelSamplingSD3", 2, -6, shift=8.0),
    node("sample", "KSampler", 2, 0, seed=106060, steps=30, cfg=6.0, sampler_name="uni_pc", scheduler="simple", denoise=1.0),
    node("decode", "VAEDecode", 3, 0),
    node("video", "CreateVideo", 3, 4, fps=16.0),
    node("save", "SaveVideo", 3, 13, size=(400, 420), filename_prefix="video/Wan"),
]  # fmt: skip
T2V_LINKS = [
    "loader.MODEL > shift.model",
    "loader.CLIP > positive.clip",
    "loader.CLIP > negative.clip",
    "shift.MODEL > sample.model",
    "positive.CONDITIONING > sample.positive",
    "negative.CONDITIONING > sample.negative",
    "latent.LATENT > sample.latent_image",
    "sample.LATENT > decode.samples",
    "loader.VAE > decode.vae",
    "decode.IMAGE > video.images",
    "video.VIDEO > save.video",
]

DOWNLOAD_NOTE = """\
## Prepare a machine

Run it once, and every later workflow starts at once. Names are profiles (`steadydancer`, `steadydancer-turbo`, `dwpose`,
`wan-t2v`, …), variants (`steadydancer/Q4_K_M`) or files of the catalogue; the node's help page has the table.

On a machine without a page: `python cli.py download steadydancer`, or `--from-env` with the ENABLE_… variables of a pod.
"""


def replace(nodes, **changed):
    """The nodes with some replaced by key."""
    return [changed.get(n["key"], n) for n in nodes]


R2_NOTE = """\
## Results that outlive the machine

**Run** works at once: without a bucket the files stay in the output folder and the nodes say so.

To upload, set `R2_ENDPOINT`, `R2_BUCKET`, `R2_ACCESS_KEY_ID` and `R2_SECRET_ACCESS_KEY` before ComfyUI starts, or write
`user/__steadydancer/r2.toml` (see the node's help). Keys are never part of a workflow.

- **Save Video to R2** encodes, checks, uploads and checks again; its text says where the video is.
- **Upload File to R2** sends a file again: after a failed upload, or, as here, the newest one under a fixed name.
- **Save Images to R2** does the same for pictures.

An unchanged graph is cached and uploads nothing: run again after a change.
"""

EXTRACT_NOTE = """\
## A dance becomes a pose video

1. **Dance**: load a video (step 1) and choose the piece: start, frames, and 16 frames a second for SteadyDancer.
2. **Run.** YOLOX and DWPose (350 MB) are fetched once. The result keeps the dance's sound.

**style**: SteadyDancer, or DWPose and controlnet_aux for ControlNet-like models. **Track and Smooth Pose** keeps several
people apart: set max_people in both nodes. **Save Pose** keeps the poses, also for an OpenPose editor; **Load Pose** (press R
first) takes them up again.
"""

EXTRACT_NODES = [
    note("note", -1, 0, EXTRACT_NOTE, 320),
    node("dance", "LoadVideo", 0, 0, title="1. Dance", size=(400, 560), file=DANCE),
    node("piece", "SteadyDancerDrivingVideo", 1, 0, frames=81),
    node("estimate", "SteadyDancerPoseEstimator", 1, 14, size=(400, 900)),
    node("track", "SteadyDancerPoseTrack", 2, 0),
    node("draw", "SteadyDancerPoseDraw", 2, 10, style="SteadyDancer"),
    node("video", "CreateVideo", 2, 18, fps=16.0),
    node("save", "SaveVideo", 3, 0, size=(400, 540), title="2. The pose video", filename_prefix="video/pose"),
    node("keep", "SteadyDancerPoseSave", 3, 30, title="Keep the poses", filename_prefix="pose/SteadyDancer"),
    node("kept", "SteadyDancerPoseLoad", 2, 30, title="Poses kept earlier", file=POSE),
    node("draw_kept", "SteadyDancerPoseDraw", 2, 38, title="Draw: poses kept earlier", style="SteadyDancer"),
    node("see_kept", "PreviewImage", 3, 38, size=(400, 400)),
]  # fmt: skip
EXTRACT_LINKS = [
    "dance.VIDEO > piece.video",
    "piece.images > estimate.image",
    "estimate.keypoints > track.keypoints",
    "track.keypoints > draw.keypoints",
    "draw.images > video.images",
    "piece.audio > video.audio",
    "piece.fps > video.fps",
    "video.VIDEO > save.video",
    "track.keypoints > keep.keypoints",
    "kept.keypoints > draw_kept.keypoints",
    "draw_kept.images > see_kept.images",
]

FROM_VIDEO_NOTE = """\
## A picture dances what a video shows

1. **Picture**: load your person (step 1). Head to toe works best when the dance shows the whole body.
2. **Dance**: load any dance video (step 2); *Driving Video* takes 81 frames of it at 16 frames a second, with the sound.
3. **Run.** DWPose reads both, *Align Pose* gives the dance the person's proportions, and a changed twin of it guides the
   sampler.

**Models come by themselves**, once: the variant that suits this GPU (fp8: 25 GB with its encoders), YOLOX and DWPose (350 MB).

**Half a body in the picture?** Keep the mode *robust*. **Another piece?** *start* in Driving Video, in seconds.
"""

POSE_NODES = ("poses", "negative_poses", "pose_frames", "negative_pose_frames")
POSE_SOURCES = {"pose_frames.images": "draw.images", "negative_pose_frames.images": "draw_negative.images"}
FROM_VIDEO_NODES = [
    node("dance", "LoadVideo", 0.7, 0, title="2. Dance", size=(280, 600), file=DANCE),
    node("piece", "SteadyDancerDrivingVideo", 0.7, 34, size=(280, None), frames=81),
    node("person", "SteadyDancerPoseEstimator", -0.9, 52, title="Pose of the person", size=(400, 900)),
    node("dancer", "SteadyDancerPoseEstimator", 0.1, 52, title="Poses of the dance", size=(400, 900)),
    node("track", "SteadyDancerPoseTrack", 1.15, 52, max_people=1),
    node("align", "SteadyDancerPoseAlign", 1.15, 62, mode="robust", seed=0, control_after_generate="fixed"),
    node("draw", "SteadyDancerPoseDraw", 1.15, 77, title="Draw: poses", style="SteadyDancer"),
    node("draw_negative", "SteadyDancerPoseDraw", 1.15, 87, title="Draw: changed poses", style="SteadyDancer"),
    node("first_pose", "ImageFromBatch", 1.15, 97, size=(280, None), title="First pose", batch_index=0, length=1),
]  # fmt: skip
FROM_VIDEO_LINKS = [
    "dance.VIDEO > piece.video",
    "fit.image > person.image",
    "piece.images > dancer.image",
    "dancer.keypoints > track.keypoints",
    "track.keypoints > align.driving",
    "person.keypoints > align.reference",
    "fit.width > align.width",
    "fit.height > align.height",
    "align.positive > draw.keypoints",
    "align.negative > draw_negative.keypoints",
    "piece.audio > video.audio",
    "piece.fps > video.fps",
]


def from_video(path):
    """A link of the basic graph, with the poses from the dance and the models from one loader."""
    source, target = (end.strip() for end in path.split(">"))
    return automatic(f"{POSE_SOURCES.get(source, source)} > {target}")


TURBO_T2V_NOTE = """\
## Text to video in four steps

TurboDiffusion's Wan 2.1: trained for 1 to 4 steps without guidance, with sparse attention. **Run**: the model (2.8 GB), the
text encoder and the VAE come by themselves; the authors' `.pth` is converted once to safetensors.

- **Prompts**: the model was trained on long English descriptions. Short ones work less well.
- **More detail**: `turbowan2.1-t2v-14b-480p/int8` (14.5 GB), or `…-720p/int8` with 1280×720 in the latent.
- **Quality**: *topk* 0.15 in the loader. **Speed**: 3 or 2 steps in the schedule.
"""
TURBO_T2V_NODES = [
    note("note", -1, 0, TURBO_T2V_NOTE, 300),
    node("loader", "SteadyDancerTurboLoader", 0, 0, size=(400, None), model="turbowan2.1-t2v-1.3b-480p/bf16"),
    node("positive", "CLIPTextEncode", 1, 0, title="Prompt", size=(400, 260), text=PROMPT),
    node("latent", "EmptyHunyuanLatentVideo", 1, 15, width=832, height=480, length=81, batch_size=1),
    node("schedule", "SteadyDancerRCMSchedule", 1, 24, steps=4, preset="t2v"),
    node("sample", "SteadyDancerTurboSampler", 2, 0, seed=106060, control_after_generate="fixed"),
    node("decode", "VAEDecode", 3, 0),
    node("video", "CreateVideo", 3, 4, fps=16.0),
    node("save", "SaveVideo", 3, 13, size=(400, 420), filename_prefix="video/Turbo"),
]  # fmt: skip
TURBO_T2V_LINKS = [
    "loader.MODEL > sample.model",
    "loader.CLIP > positive.clip",
    "positive.CONDITIONING > sample.positive",
    "schedule.SIGMAS > sample.sigmas",
    "latent.LATENT > sample.latent",
    "sample.LATENT > decode.samples",
    "loader.VAE > decode.vae",
    "decode.IMAGE > video.images",
    "video.VIDEO > save.video",
]

TURBO_I2V_NOTE = """\
## A picture moves, in four steps

TurboDiffusion's Wan 2.2: two experts of 14B, the first for strong noise, the second from 90 % of the time on; **TurboDiffusion
Sampler** changes over by itself and keeps one stream of noise.

- **Run** fetches both experts in int8 (29 GB), once. Cards with more than 40 GB may take `/bf16`.
- The picture is **stretched** to multiples of 16, as the authors do, not cropped: the shape hardly changes.
- 480p: *area* in Fit Reference Image. Fewer than 3 steps never reach the second expert.
"""
TURBO_I2V_NODES = [
    note("note", -1, 0, TURBO_I2V_NOTE, 300),
    node("picture", "LoadImage", -1, 17, size=(400, 420), image=PERSON),
    node("fit", "SteadyDancerFitImage", -1, 40, size=(400, None), area="720p (1280×720)", fit="stretch (TurboDiffusion)"),
    node("loader", "SteadyDancerTurboLoader", 0, 0, size=(400, None), model="turbowan2.2-i2v-a14b-720p/int8"),
    node("positive", "CLIPTextEncode", 1, 0, title="Prompt", size=(400, 260), text=PROMPT),
    node("condition", "WanImageToVideo", 1, 15, length=81, batch_size=1),
    node("schedule", "SteadyDancerRCMSchedule", 1, 28, steps=4, preset="i2v"),
    node("sample", "SteadyDancerTurboSampler", 2, 0, seed=106060, control_after_generate="fixed"),
    node("decode", "VAEDecode", 3, 0),
    node("video", "CreateVideo", 3, 4, fps=16.0),
    node("save", "SaveVideo", 3, 13, size=(400, 420), filename_prefix="video/Turbo"),
]  # fmt: skip
TURBO_I2V_LINKS = [
    "picture.IMAGE > fit.image",
    "fit.image > condition.start_image",
    "fit.width > condition.width",
    "fit.height > condition.height",
    "loader.MODEL > sample.model",
    "loader.MODEL (low noise) > sample.model_low",
    "loader.CLIP > positive.clip",
    "loader.VAE > condition.vae",
    "positive.CONDITIONING > condition.positive",
    "positive.CONDITIONING > condition.negative",
    "condition.positive > sample.positive",
    "condition.latent > sample.latent",
    "schedule.SIGMAS > sample.sigmas",
    "sample.LATENT > decode.samples",
    "loader.VAE > decode.vae",
    "decode.IMAGE > video.images",
    "video.VIDEO > save.video",
]

FAST_NOTE = """\
## A picture dances, in four steps

`steadydancer_auto` with the **step-distill LoRA**: 4 steps and no text guidance, so 5 passes through the network (one step
has the poses' own guidance) where the full run has 91. No TurboDiffusion weights exist for SteadyDancer; this is the honest
fast way.

- Without the changed pose video: delete its two nodes. Then it is 4 passes.
- Eyes closed or poses off: the full run is better. Use this to choose picture and dance.
"""

RCM_NOTE = """\
## Experiment: rCM's training on SteadyDancer

Adds what TurboDiffusion's training changed in Wan's text-to-video model to SteadyDancer's weights, as its authors did for
image to video, and looks at half of the blocks only. **Nobody has shown that this works well.** It needs three unquantised
14B models (90 GB of disk, and as much RAM) and is here to be tried, not to be used.
"""

GRAPHS = {
    "save_to_r2": {
        "nodes": [
            note("note", -1, 0, R2_NOTE, 420),
            node("video", "LoadVideo", 0, 0, size=(None, 560), file=DANCE),
            node("picture", "LoadImage", 0, 32, size=(None, 320), image=PERSON),
            node("save", "SteadyDancerR2SaveVideo", 1, 0, size=(400, 1020)),
            node(
                "newest",
                "SteadyDancerR2Upload",
                2,
                0,
                title="The newest video under a fixed name",
                size=(400, 260),
                key="{prefix}/newest.{ext}",
                overwrite=True,
            ),
            node("images", "SteadyDancerR2SaveImages", 2, 16, size=(400, 640)),
        ],
        "links": [
            link("video.VIDEO > save.video"),
            link("picture.IMAGE > images.images"),
            link("save.path > newest.file"),
        ],
        "groups": [],
    },
    "steadydancer_basic": {
        "nodes": BASIC_NODES,
        "links": [link(path) for path in BASIC_LINKS],
        "groups": BASIC_GROUPS,
    },
    "steadydancer_long": {
        "nodes": [
            *replace(
                BASIC_NODES,
                note=note("note", -1, 0, LONG_NOTE, 360),
                condition=node("condition", "SteadyDancerToVideo", 3.95, 0, size=(310, None), length=161, batch_size=1),
            ),
            node(
                "windows",
                "WanContextWindowsManual",
                2.95,
                30,
                context_length=81,
                context_overlap=30,
                context_schedule="standard_uniform",
                fuse_method="pyramid",
                freenoise=True,
                retain_first_frame=False,
            ),
        ],
        "links": [
            *(link(path) for path in BASIC_LINKS if not path.startswith("unet.")),
            link("unet.MODEL > windows.model"),
            link("windows.MODEL > guider.model"),
        ],
        "groups": BASIC_GROUPS,
    },
    "steadydancer_auto": {
        "nodes": [
            *(
                n
                for n in replace(BASIC_NODES, note=note("note", -1, 0, AUTO_NOTE, 430))
                if n["key"] not in ("unet", "clip", "clip_vision", "vae")
            ),
            node("loader", "SteadyDancerLoader", 2.15, 0, size=(310, None), variant="auto", step_distill=False),
            node(
                "select",
                "SteadyDancerVariantSelector",
                2.15,
                -14,
                family="steadydancer",
                budget=0.0,
                preference="auto",
                generation="auto",
            ),
        ],
        "links": [*(automatic(path) for path in BASIC_LINKS), link("select.variant > loader.variant")],
        "groups": BASIC_GROUPS,
    },
    "steadydancer_planned": {
        "nodes": [
            *(
                n
                for n in replace(
                    BASIC_NODES,
                    note=note("note", -1, 0, PLANNED_NOTE, 430),
                    decode=node("decode", "VAEDecodeTiled", 4.75, 8, size=(400, None), temporal_size=4096),
                    video=node("video", "CreateVideo", 4.75, 17, size=(400, None), fps=16.0),
                    save=node(
                        "save",
                        "SaveVideo",
                        4.75,
                        24,
                        size=(400, 480),
                        title="3. The video",
                        filename_prefix="video/SteadyDancer",
                    ),
                )
                if n["key"] not in ("unet", "clip", "clip_vision", "vae")
            ),
            node("loader", "SteadyDancerLoader", 2.15, 20, size=(310, None), variant="auto", step_distill=False),
            node(
                "plan",
                "SteadyDancerVRAMPlanner",
                2.15,
                -16,
                size=(310, 660),
                variant="auto",
                frames=81,
                steps=40,
                guidance="text and pose",
                gpu="this one",
            ),
            node("report", "SteadyDancerVRAMReport", 3.95, 49, size=(310, 200)),
        ],
        "links": [
            *(automatic(path) for path in BASIC_LINKS),
            link("plan.variant > loader.variant"),
            link("plan.plan > loader.plan"),
            link("plan.vae_tile > decode.tile_size"),
            link("fit.width > plan.width"),
            link("fit.height > plan.height"),
            link("plan.plan > report.plan"),
            link("decode.IMAGE > report.after"),
        ],
        "groups": [*BASIC_GROUPS[:1], ["Plan and models", 926, -380, 350, 940], *BASIC_GROUPS[2:]],
    },
    "wan_t2v_auto": {"nodes": T2V_NODES, "links": [link(path) for path in T2V_LINKS], "groups": []},
    "download_models": {
        "nodes": [
            note("note", -1, 0, DOWNLOAD_NOTE, 240),
            node("download", "SteadyDancerDownload", 0, 0, size=(400, 260), names="steadydancer"),
        ],
        "links": [],
        "groups": [],
    },
    "dwpose_extract": {"nodes": EXTRACT_NODES, "links": [link(path) for path in EXTRACT_LINKS], "groups": []},
    "steadydancer_from_video": {
        "nodes": [
            *(
                n
                for n in replace(BASIC_NODES, note=note("note", -1, 0, FROM_VIDEO_NOTE, 430))
                if n["key"] not in (*POSE_NODES, "first_pose", "unet", "clip", "clip_vision", "vae")
            ),
            *FROM_VIDEO_NODES,
            node("loader", "SteadyDancerLoader", 2.15, 0, size=(310, None), variant="auto", step_distill=False),
        ],
        "links": [
            *(from_video(path) for path in BASIC_LINKS if "poses.VIDEO" not in path),
            *(link(path) for path in FROM_VIDEO_LINKS),
        ],
        "groups": [["3. The dance's poses", -420, 960, 1250, 1120], *BASIC_GROUPS[1:]],
    },
    "turbo_t2v": {"nodes": TURBO_T2V_NODES, "links": [link(path) for path in TURBO_T2V_LINKS], "groups": []},
    "turbo_i2v": {"nodes": TURBO_I2V_NODES, "links": [link(path) for path in TURBO_I2V_LINKS], "groups": []},
    "steadydancer_turbo": {
        "nodes": [
            *(
                n
                for n in replace(
                    BASIC_NODES,
                    note=note("note", -1, 0, FAST_NOTE, 360),
                    guider=node(
                        "guider",
                        "SteadyDancerGuider",
                        3.95,
                        20,
                        size=(310, None),
                        cfg=1.0,
                        pose_cfg=1.0,
                        start=0.1,
                        end=0.4,
                    ),
                    schedule=node("schedule", "SteadyDancerSchedule", 3.95, 32, size=(310, None), steps=4, shift=5.0),
                )
                if n["key"] not in ("unet", "clip", "clip_vision", "vae")
            ),
            node(
                "loader", "SteadyDancerLoader", 2.15, 0, size=(310, None), variant="steadydancer/fp8", step_distill=True
            ),
        ],
        "links": [automatic(path) for path in BASIC_LINKS],
        "groups": BASIC_GROUPS,
    },
    "steadydancer_rcm_merge": {
        "nodes": [
            *(
                n
                for n in replace(
                    BASIC_NODES,
                    note=note("note", -1, 0, RCM_NOTE, 300),
                    guider=node(
                        "guider",
                        "SteadyDancerGuider",
                        3.95,
                        20,
                        size=(310, None),
                        cfg=1.0,
                        pose_cfg=1.0,
                        start=0.1,
                        end=0.4,
                    ),
                    schedule=node(
                        "schedule", "SteadyDancerRCMSchedule", 3.95, 32, size=(310, None), steps=4, preset="t2v"
                    ),
                    solver=node("solver", "KSamplerSelect", 3.95, 39, size=(310, None), sampler_name="lcm"),
                    noise=node(
                        "noise",
                        "RandomNoise",
                        3.95,
                        43,
                        size=(310, None),
                        noise_seed=106060,
                        control_after_generate="fixed",
                    ),
                )
                if n["key"] not in ("unet", "clip", "clip_vision", "vae")
            ),
            node(
                "loader",
                "SteadyDancerLoader",
                2.15,
                0,
                size=(310, None),
                variant="steadydancer/fp16",
                step_distill=False,
            ),
            node(
                "turbo", "SteadyDancerTurboLoader", 2.15, -40, model="turbowan2.1-t2v-14b-480p/bf16", attention="dense"
            ),
            node("t2v", "UNETLoader", 2.15, -20, unet_name="wan2.1_t2v_14B_bf16.safetensors", weight_dtype="default"),
            node("merge", "SteadyDancerRCMMerge", 3.1, -40, strength=1.0),
            node("sparse", "SteadyDancerSparseAttention", 3.95, -40, keep=0.5),
        ],
        "links": [
            *(automatic(path) for path in BASIC_LINKS if not path.startswith("unet.")),
            link("loader.MODEL > merge.model"),
            link("turbo.MODEL > merge.rcm"),
            link("t2v.MODEL > merge.base"),
            link("merge.MODEL > sparse.model"),
            link("sparse.MODEL > guider.model"),
        ],
        "groups": BASIC_GROUPS,
    },
}
