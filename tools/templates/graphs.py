"""The example workflows as data: nodes in columns, links by name. make.py turns them into files."""

from typing import Any

from .dance import DANCE_GRAPH
from .spec import DANCE, NEGATIVE, NEGATIVE_POSES, PERSON, POSE, POSES, PROMPT, link, node, note

BASIC_NOTE = """\
## A picture dances

1. **Picture**: load your person. Head to toe works best when the dance shows the whole body.
2. **Poses**: the drawn pose video and its changed twin, which makes the person keep their own proportions. These were drawn for
   the example person: **for your own picture or dance take `steadydancer_from_video`**, which draws both.
3. **Prompt**: describe *your* person, place and motion; the text here is about the example. The negative prompt is Wan's own: leave it.
4. **Run.** About 55 minutes at 576p on an RTX 4090 (an estimate). **Faster**: a Wan I2V step-distilled LoRA, 4 steps, cfg 1: 3 minutes.

**Models**, placed by hand (`steadydancer_auto` downloads them): `diffusion_models/Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors`
16.4 GB, `text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors`, `clip_vision/clip_vision_h.safetensors`, `vae/wan_2.1_vae.safetensors`
"""

BASIC_NODES = [
    note("note", 0, -330, BASIC_NOTE, 210),
    node("picture", "LoadImage", 0, 0, title="1. Picture of the person", size=(280, 560), image=PERSON),
    node("poses", "LoadVideo", 300, 0, title="2. Pose video", size=(280, 560), file=POSES),
    node("negative_poses", "LoadVideo", 600, 0, title="2. The same, changed (negative)", size=(280, 560), file=NEGATIVE_POSES),
    node("fit", "SteadyDancerFitImage", 0, 640, size=(280, None), area="576p (1024×576)"),
    node("pose_frames", "GetVideoComponents", 300, 640, size=(280, None)),
    node("negative_pose_frames", "GetVideoComponents", 600, 640, size=(280, None)),
    node("see", "SteadyDancerClipVision", 300, 800, size=(280, None)),
    node("positive", "CLIPTextEncode", 940, 0, title="3. Prompt", size=(400, 160), text=PROMPT),
    node("negative", "CLIPTextEncode", 940, 230, title="Negative prompt", size=(400, 100), text=NEGATIVE),
    node("unet", "UNETLoader", 940, 480, size=(400, None), unet_name="Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors", weight_dtype="default"),
    node("clip", "CLIPLoader", 940, 615, size=(400, None), clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan"),
    node("clip_vision", "CLIPVisionLoader", 940, 770, size=(400, None), clip_name="clip_vision_h.safetensors"),
    node("vae", "VAELoader", 940, 885, size=(400, None), vae_name="wan_2.1_vae.safetensors"),
    node("condition", "SteadyDancerToVideo", 1380, 0, size=(310, None), length=81, batch_size=1),
    node("guider", "SteadyDancerGuider", 1380, 360, size=(310, None), cfg=5.0, pose_cfg=1.0, start=0.1, end=0.4),
    node("schedule", "SteadyDancerSchedule", 1380, 625, size=(310, None), steps=40, shift=5.0),
    node("solver", "SteadyDancerFlowUniPC", 1380, 772, size=(310, None)),
    node("noise", "RandomNoise", 1380, 872, size=(310, None), noise_seed=106060, control_after_generate="randomize"),
    node("sample", "SamplerCustomAdvanced", 1730, 0, size=(400, None)),
    node("decode", "VAEDecode", 1730, 180, size=(400, None)),
    node("video", "CreateVideo", 1730, 300, size=(400, None), fps=16.0),
    node("save", "SaveVideo", 1730, 490, size=(400, 455), title="4. The video", filename_prefix="video/SteadyDancer"),
]  # fmt: skip
BASIC_GROUPS: list[list[Any]] = [
    ["1, 2. Your picture and its poses", -20, -80, 920, 1050],
    ["3. Prompts", 920, -80, 440, 460],
    ["Models", 920, 400, 440, 570],
    ["Length, guidance, steps, seed", 1360, -80, 350, 1050],
    ["4. Result", 1710, -80, 440, 1050],
]
BASIC_LINKS = [
    "picture.IMAGE > fit.image",
    "poses.VIDEO > pose_frames.video",
    "negative_poses.VIDEO > negative_pose_frames.video",
    "clip_vision.CLIP_VISION > see.clip_vision",
    "picture.IMAGE > see.image",
    "pose_frames.images > see.pose_video",
    "clip.CLIP > positive.clip",
    "clip.CLIP > negative.clip",
    "positive.CONDITIONING > condition.positive",
    "negative.CONDITIONING > condition.negative",
    "vae.VAE > condition.vae",
    "see.clip_vision_output > condition.clip_vision_output",
    "see.pose_clip_vision_output > condition.pose_clip_vision_output",
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

Like `steadydancer_auto`, for more frames than the model was made for: **Wan Context Windows** lets it work on 81 frames at a time,
about 28 of them shared with the window before, and every window sees the picture and the first pose of the whole clip.

- **Length**: 161 frames in *SteadyDancer Conditioning* are ten seconds. It must be 4·n + 1, and the pose videos as long.
- **Time** grows with the windows: 161 frames are three or four of them, so the run takes that many times as long.
- ***retain_first_frame***: off, the person may drift from the picture over a long clip; on, they are steadier but may jump back to
  the picture's pose where a window begins. The model was trained for neither.
"""


AUTO_NOTE = """\
## A picture dances: models come by themselves

1. **Picture**: load your person. Head to toe works best when the dance shows the whole body.
2. **Poses**: the drawn pose video and its changed twin, which makes the person keep their own proportions. These were drawn for
   the example person: **for your own picture or dance take `steadydancer_from_video`**, which draws both.
3. **Prompt**: describe *your* person, place and motion; the text here is about the example. The negative prompt is Wan's own: leave it.
4. **Run.** What is missing is downloaded first, once: about 25 GB, with progress under the loader; Cancel keeps what was fetched.
   Then about 55 minutes at 576p on an RTX 4090 (an estimate; the planner knows your card).

**For a first try**: *step_distill* in the loader, *cfg* 1 in the guider and 4 *steps*: 3 minutes. **Smaller**: area 480p.
**GGUF / fp8 Selector** chooses the variant for your GPU and says why. Disconnect it to choose one yourself in the loader.
"""

PLANNED_NOTE = """\
## A picture dances, and it is known beforehand whether it fits

**VRAM Budget Planner** reads this GPU, chooses the variant that is done first, and shows what every phase takes and how long. Its
plan goes to the loader, which keeps that much on the card; its tile size goes to the decoder. If it cannot fit, the loader says so
before anything is fetched, and what to change. **VRAM Report** compares the run with the plan afterwards, and the next plan knows.

- *gpu*: another card shows what it could do; set it back to *this one* to run.
- Changed the frames in **SteadyDancer Conditioning**, the steps or the guidance? Change them in the planner too.
- The poses were drawn for the example person: for your own, `steadydancer_from_video` draws them. The prompt describes the example too.
"""

# What takes the place of core's four loaders.
AUTO_SOURCES = {
    "unet.MODEL": "loader.MODEL",
    "clip.CLIP": "loader.CLIP",
    "clip_vision.CLIP_VISION": "loader.CLIP_VISION",
    "vae.VAE": "loader.VAE",
}


def automatic(path: str) -> list[str]:
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
    note("note", -440, 0, T2V_NOTE, 240, width=400),
    node("loader", "SteadyDancerCatalogLoader", 0, 0, variant="wan2.1/t2v-1.3b"),
    node("positive", "CLIPTextEncode", 440, 0, title="Prompt", size=(400, 180), text=PROMPT),
    node("negative", "CLIPTextEncode", 440, 220, title="Negative prompt", size=(400, 180), text=NEGATIVE),
    node("latent", "EmptyHunyuanLatentVideo", 440, 440, width=832, height=480, length=33, batch_size=1),
    node("shift", "ModelSamplingSD3", 880, -120, shift=8.0),
    node("sample", "KSampler", 880, 0, seed=106060, steps=30, cfg=6.0, sampler_name="uni_pc", scheduler="simple", denoise=1.0),
    node("decode", "VAEDecode", 1320, 0),
    node("video", "CreateVideo", 1320, 120, fps=16.0),
    node("save", "SaveVideo", 1320, 310, size=(400, 420), filename_prefix="video/Wan"),
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

*workflow* fetches what a workflow names: `this` for the one that the node is in, or a template's name, ComfyUI's own among them.

On a machine without a page: `python cli.py download steadydancer`, or `--from-env` with the ENABLE_… variables of a pod.
"""

CONVERT_NOTE = """\
## Half the size, closer than fp8

Run it once: SteadyDancer's fp16 file becomes `Wan21_I2V_SteadyDancer_int8_convrot.safetensors` beside it, in a quarter of an hour
or less. The fp16 file (32.8 GB) is downloaded first if it is not here. Then choose `steadydancer/int8_convrot` in the loader.

It is for NVIDIA RTX 20 to 40, A100 and H100 with PyTorch for CUDA 13. On a machine without a page: `python cli.py convert`.
"""


def replace(nodes: list[dict], **changed: dict) -> list[dict]:
    """The nodes with some replaced by key."""
    return [changed.get(n["key"], n) for n in nodes]


LOADERS = ("unet", "clip", "clip_vision", "vae")


def one_loader(
    text: str, height: int = 190, step_distill: bool = False, variant: str = "auto", **changed: dict
) -> list[dict]:
    """The basic graph's nodes with one loader in place of core's four, another note, and `changed` nodes."""
    kept = [n for n in BASIC_NODES if n["key"] not in LOADERS]
    loader = node(
        "loader", "SteadyDancerLoader", 940, 780, size=(400, None), variant=variant, step_distill=step_distill
    )
    return [*replace(kept, **{"note": note("note", 0, -120 - height, text, height), **changed}), loader]


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
    note("note", -440, 0, EXTRACT_NOTE, 320, width=400),
    node("dance", "LoadVideo", 0, 0, title="1. Dance", size=(400, 560), file=DANCE),
    node("piece", "SteadyDancerDrivingVideo", 440, 0, start=0.0, frames=81),
    node("estimate", "SteadyDancerPoseEstimator", 440, 280, size=(400, 900)),
    node("track", "SteadyDancerPoseTrack", 880, 0),
    node("draw", "SteadyDancerPoseDraw", 880, 200, style="SteadyDancer"),
    node("video", "CreateVideo", 880, 360, fps=16.0),
    node("save", "SaveVideo", 1320, 0, size=(400, 540), title="2. The pose video", filename_prefix="video/pose"),
    node("keep", "SteadyDancerPoseSave", 1320, 600, title="Keep the poses", filename_prefix="pose/SteadyDancer"),
    node("kept", "SteadyDancerPoseLoad", 880, 600, title="Poses kept earlier", file=POSE),
    node("draw_kept", "SteadyDancerPoseDraw", 880, 760, title="Draw: poses kept earlier", style="SteadyDancer"),
    node("see_kept", "PreviewImage", 1320, 760, size=(400, 400)),
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

REPORT_NOTE = """\
## Did it dance?

1. **Result**: load a video that SteadyDancer made. **Picture** and **Dance**: what it was made from, the same piece and frames.
2. **Run.** The poses are read again from the result (YOLOX and DWPose, 350 MB, come by themselves) and measured: joints in place,
   left and right, colours of the clothes, flicker, jumps, background, speed. Each figure says *good*, *look at it* or *broken*, in
   which frames, and what to change. The video shows picture, poses and result side by side, with the dance's sound.

The example's result is the dance itself, so its motion is right and its **person is another one**: colours are broken.
**Right after a render** connect *images* to the frames of VAE Decode instead, *keypoints* to those of its poses; *enabled* off costs nothing.
The numbers lie in `output/report` as JSON: `python cli.py report A.json B.json` compares two settings.
"""

REPORT_NODES = [
    note("note", 0, -290, REPORT_NOTE, 250, width=1250),
    node("result", "LoadVideo", 0, 0, title="1. The result", size=(280, 560), file=DANCE),
    node("picture", "LoadImage", 620, 0, title="1. Picture of the person", size=(280, 560), image=PERSON),
    node("dance", "LoadVideo", 310, 0, title="1. Dance", size=(280, 560), file=DANCE),
    node("result_frames", "SteadyDancerDrivingVideo", 0, 660, title="Frames of the result", size=(280, None), start=0.0, frames=81),
    node("piece", "SteadyDancerDrivingVideo", 310, 660, size=(280, None), start=0.0, frames=81),
    node("size", "GetImageSize", 620, 660, size=(280, None)),
    node("fit", "ImageScale", 940, 0, title="Picture at the result's size", size=(310, None), upscale_method="lanczos", crop="center"),
    node("poses", "SteadyDancerDancePoses", 940, 230, title="Poses asked for", size=(310, 700), seed=0, control_after_generate="fixed"),
    node("report", "SteadyDancerDanceReport", 1290, -80, title="2. Did it dance?", size=(400, 1020)),
    node("save", "SaveVideo", 1730, -80, size=(420, 500), title="Picture, poses, result", filename_prefix="video/report"),
    node("see", "PreviewImage", 1730, 480, size=(420, 460), title="Curves and worst frames"),
]  # fmt: skip
REPORT_LINKS = [
    "result.VIDEO > result_frames.video",
    "dance.VIDEO > piece.video",
    "result_frames.images > size.image",
    "picture.IMAGE > fit.image",
    "size.width > fit.width",
    "size.height > fit.height",
    "fit.IMAGE > poses.image",
    "piece.images > poses.dance",
    "result_frames.images > report.images",
    "result_frames.fps > report.fps",
    "picture.IMAGE > report.picture",
    "poses.keypoints > report.keypoints",
    "piece.audio > report.audio",
    "report.side_by_side > save.video",
    "report.sheet > see.images",
]

TURBO_T2V_NOTE = """\
## Text to video in four steps

TurboDiffusion's Wan 2.1: trained for 1 to 4 steps without guidance, with sparse attention. **Run**: the model (2.8 GB), the
text encoder and the VAE come by themselves; the authors' `.pth` is converted once to safetensors.

- **Prompts**: the model was trained on long English descriptions. Short ones work less well.
- **More detail**: `turbowan2.1-t2v-14b-480p/int8` (14.5 GB), or `…-720p/int8` with 1280×720 in the latent.
- **Quality**: *topk* 0.15 in the loader. **Speed**: 3 or 2 steps in the schedule.
"""
TURBO_T2V_NODES = [
    note("note", -440, 0, TURBO_T2V_NOTE, 300, width=400),
    node("loader", "SteadyDancerTurboLoader", 0, 0, size=(400, None), model="turbowan2.1-t2v-1.3b-480p/bf16"),
    node("positive", "CLIPTextEncode", 440, 0, title="Prompt", size=(400, 260), text=PROMPT),
    node("latent", "EmptyHunyuanLatentVideo", 440, 300, width=832, height=480, length=81, batch_size=1),
    node("schedule", "SteadyDancerRCMSchedule", 440, 480, steps=4, preset="t2v"),
    node("sample", "SteadyDancerTurboSampler", 880, 0, seed=106060, control_after_generate="randomize"),
    node("decode", "VAEDecode", 1320, 0),
    node("video", "CreateVideo", 1320, 120, fps=16.0),
    node("save", "SaveVideo", 1320, 310, size=(400, 420), filename_prefix="video/Turbo"),
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
    note("note", -440, 0, TURBO_I2V_NOTE, 300, width=400),
    node("picture", "LoadImage", -440, 340, size=(400, 420), image=PERSON),
    node("fit", "SteadyDancerFitImage", -440, 800, size=(400, None), area="720p (1280×720)", fit="stretch (TurboDiffusion)"),
    node("loader", "SteadyDancerTurboLoader", 0, 0, size=(400, None), model="turbowan2.2-i2v-a14b-720p/int8"),
    node("positive", "CLIPTextEncode", 440, 0, title="Prompt", size=(400, 260), text=PROMPT),
    node("condition", "WanImageToVideo", 440, 300, length=81, batch_size=1),
    node("schedule", "SteadyDancerRCMSchedule", 440, 560, steps=4, preset="i2v"),
    node("sample", "SteadyDancerTurboSampler", 880, 0, seed=106060, control_after_generate="randomize", ode=True),
    node("decode", "VAEDecode", 1320, 0),
    node("video", "CreateVideo", 1320, 120, fps=16.0),
    node("save", "SaveVideo", 1320, 310, size=(400, 420), filename_prefix="video/Turbo"),
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

- **Prompt**: describe *your* person; the text is about the example. **Your own picture or dance**: `steadydancer_from_video` draws their
  poses; set *step_distill*, *cfg* 1 and 4 *steps* there.
- Eyes closed or poses off: the full run is better. Use this to choose picture and dance. Its LoRA is the one that SteadyDancer's users
  run with 4 steps; this solver and the poses' own guidance beside it are ours, and the authors have not tried them.
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
            note("note", -440, 0, R2_NOTE, 420, width=400),
            node("video", "LoadVideo", 0, 0, size=(None, 560), file=DANCE),
            node("picture", "LoadImage", 0, 640, size=(None, 320), image=PERSON),
            node("save", "SteadyDancerR2SaveVideo", 440, 0, size=(400, 1020)),
            node(
                "newest",
                "SteadyDancerR2Upload",
                880,
                0,
                title="The newest video under a fixed name",
                size=(400, 260),
                key="{prefix}/newest.{ext}",
                overwrite=True,
            ),
            node("images", "SteadyDancerR2SaveImages", 880, 320, size=(400, 640)),
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
            *one_loader(
                LONG_NOTE,
                condition=node("condition", "SteadyDancerToVideo", 1380, 0, size=(310, None), length=161, batch_size=1),
            ),
            node(
                "windows",
                "WanContextWindowsManual",
                940,
                470,
                size=(400, None),
                context_length=81,
                context_overlap=30,
                context_schedule="standard_uniform",
                fuse_method="pyramid",
                freenoise=True,
                retain_first_frame=False,
            ),
        ],
        "links": [
            *(automatic(path) for path in BASIC_LINKS if not path.startswith("unet.")),
            link("loader.MODEL > windows.model"),
            link("windows.MODEL > guider.model"),
        ],
        "groups": BASIC_GROUPS,
    },
    "steadydancer_auto": {
        "nodes": [
            *one_loader(AUTO_NOTE),
            node(
                "select",
                "SteadyDancerVariantSelector",
                940,
                490,
                size=(400, None),
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
            *replace(
                one_loader(
                    PLANNED_NOTE,
                    decode=node("decode", "VAEDecodeTiled", 1730, 180, size=(400, None), temporal_size=4096),
                    video=node("video", "CreateVideo", 1730, 400, size=(400, None), fps=16.0),
                    save=node(
                        "save",
                        "SaveVideo",
                        1730,
                        580,
                        size=(400, 220),
                        title="4. The video",
                        filename_prefix="video/SteadyDancer",
                    ),
                ),
                loader=node(
                    "loader", "SteadyDancerLoader", 600, 800, size=(280, None), variant="auto", step_distill=False
                ),
            ),
            node(
                "plan",
                "SteadyDancerVRAMPlanner",
                940,
                470,
                size=(400, 470),
                variant="auto",
                frames=81,
                steps=40,
                guidance="text and pose",
                gpu="this one",
            ),
            node("report", "SteadyDancerVRAMReport", 1730, 850, size=(400, 100)),
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
        "groups": [*BASIC_GROUPS[:2], ["The plan", 920, 400, 440, 570], *BASIC_GROUPS[3:]],
    },
    "wan_t2v_auto": {"nodes": T2V_NODES, "links": [link(path) for path in T2V_LINKS], "groups": []},
    "download_models": {
        "nodes": [
            note("note", -440, 0, DOWNLOAD_NOTE, 240, width=400),
            node("download", "SteadyDancerDownload", 0, 0, size=(400, 260), names="steadydancer", workflow=""),
        ],
        "links": [],
        "groups": [],
    },
    "convert_model": {
        "nodes": [
            note("note", -440, 0, CONVERT_NOTE, 300, width=400),
            node(
                "convert",
                "SteadyDancerConvertModel",
                0,
                0,
                size=(400, 260),
                source="steadydancer/fp16",
                to="int8_convrot",
            ),
        ],
        "links": [],
        "groups": [],
    },
    "dwpose_extract": {"nodes": EXTRACT_NODES, "links": [link(path) for path in EXTRACT_LINKS], "groups": []},
    "dance_report": {"nodes": REPORT_NODES, "links": [link(path) for path in REPORT_LINKS], "groups": []},
    "steadydancer_from_video": DANCE_GRAPH,
    "turbo_t2v": {"nodes": TURBO_T2V_NODES, "links": [link(path) for path in TURBO_T2V_LINKS], "groups": []},
    "turbo_i2v": {"nodes": TURBO_I2V_NODES, "links": [link(path) for path in TURBO_I2V_LINKS], "groups": []},
    "steadydancer_turbo": {
        "nodes": one_loader(
            FAST_NOTE,
            170,
            step_distill=True,
            variant="steadydancer/fp8",
            guider=node(
                "guider", "SteadyDancerGuider", 1380, 360, size=(310, None), cfg=1.0, pose_cfg=1.0, start=0.1, end=0.4
            ),
            schedule=node("schedule", "SteadyDancerSchedule", 1380, 625, size=(310, None), steps=4, shift=5.0),
        ),
        "links": [automatic(path) for path in BASIC_LINKS],
        "groups": BASIC_GROUPS,
    },
    "steadydancer_rcm_merge": {
        "nodes": [
            *one_loader(
                RCM_NOTE,
                note=note("note", 0, -330, RCM_NOTE, 210, width=880),
                variant="steadydancer/fp16",
                guider=node(
                    "guider",
                    "SteadyDancerGuider",
                    1380,
                    360,
                    size=(310, None),
                    cfg=1.0,
                    pose_cfg=1.0,
                    start=0.1,
                    end=0.4,
                ),
                schedule=node(
                    "schedule", "SteadyDancerRCMSchedule", 1380, 622, size=(310, None), steps=4, preset="t2v"
                ),
                solver=node("solver", "KSamplerSelect", 1380, 795, size=(310, None), sampler_name="lcm"),
                noise=node(
                    "noise",
                    "RandomNoise",
                    1380,
                    884,
                    size=(310, None),
                    noise_seed=106060,
                    control_after_generate="randomize",
                ),
            ),
            node(
                "turbo",
                "SteadyDancerTurboLoader",
                940,
                -310,
                size=(400, None),
                model="turbowan2.1-t2v-14b-480p/bf16",
                attention="dense",
            ),
            node(
                "t2v",
                "UNETLoader",
                1380,
                -310,
                size=(310, None),
                unet_name="wan2.1_t2v_14B_bf16.safetensors",
                weight_dtype="default",
            ),
            node("merge", "SteadyDancerRCMMerge", 1730, -310, size=(400, None), strength=1.0),
            node("sparse", "SteadyDancerSparseAttention", 1380, -180, size=(310, None), keep=0.5),
        ],
        "links": [
            *(automatic(path) for path in BASIC_LINKS if not path.startswith("unet.")),
            link("loader.MODEL > merge.model"),
            link("turbo.MODEL > merge.rcm"),
            link("t2v.MODEL > merge.base"),
            link("merge.MODEL > sparse.model"),
            link("sparse.MODEL > guider.model"),
        ],
        "groups": [*BASIC_GROUPS, ["rCM's training and sparse attention", 920, -390, 1230, 300]],
    },
}
