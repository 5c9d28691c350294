"""The main template: a picture, a dance, a sentence, and one box that holds all the rest."""

from typing import Any

from .spec import DANCE, NEGATIVE, PERSON, PROMPT, link, node, note

NOTE = """\
Picture, dance, prompt, then **Run**. The models come by themselves, once: 26 GB.

***fast*** takes minutes. Off, for the final take, about 18 times as long.

All else is inside: double-click **3**.
"""

# What stays outside the box. Video boxes are as high as a 9:16 video makes them.
OUTSIDE = [
    node("picture", "LoadImage", 0, 0, title="1. Picture", size=(225, 326), image=PERSON),
    node("dance", "LoadVideo", 245, 0, title="2. Dance", size=(223, 470), file=DANCE),
    note("note", 0, 366, NOTE, 104, width=225),
    node("check", "PreviewImage", 488, 320, title="Do the poses fit?", size=(390, 150)),
    node("save", "SaveVideo", 898, 0, title="4. The video", size=(210, 470), filename_prefix="video/SteadyDancer"),
]  # fmt: skip

INSIDE = [
    node("fit", "SteadyDancerFitImage", 0, 0, size=(280, None), area="576p (1024×576)"),
    node("piece", "SteadyDancerDrivingVideo", 0, 260, size=(280, None), start=0.0, frames=81),
    node("seconds", "PrimitiveFloat", 0, 500, size=(280, None), title="Length in seconds", value=5.0),
    node("frames", "ComfyMathExpression", 0, 630, size=(280, None), title="Seconds to frames", expression="max(0, round(a * 4)) * 4 + 1"),
    node("person", "SteadyDancerPoseEstimator", 340, 0, title="Pose of the person", size=(280, 610)),
    node("dancer", "SteadyDancerPoseEstimator", 640, 0, title="Poses of the dance", size=(280, 610)),
    node("track", "SteadyDancerPoseTrack", 340, 680, size=(280, None), max_people=1),
    node("align", "SteadyDancerPoseAlign", 340, 850, size=(280, None), mode="robust", seed=0, control_after_generate="fixed"),
    node("draw", "SteadyDancerPoseDraw", 640, 680, size=(280, None), title="Draw: poses", style="SteadyDancer"),
    node("draw_negative", "SteadyDancerPoseDraw", 640, 825, size=(280, None), title="Draw: changed poses", style="SteadyDancer"),
    node("draw_check", "SteadyDancerPoseDraw", -360, 0, size=(280, None), title="Draw: to look at", style="DWPose"),
    node("overlay", "ImageBlend", -360, 150, size=(280, None), blend_factor=1.0, blend_mode="screen"),
    node("first", "ImageFromBatch", -360, 320, size=(280, None), title="First pose", batch_index=0, length=1),
    node("middle", "ImageFromBatch", -360, 470, size=(280, None), title="A later pose", batch_index=40, length=1),
    node("last", "ImageFromBatch", -360, 620, size=(280, None), title="Last pose", batch_index=-1, length=1),
    node("beside", "ImageStitch", -360, 770, size=(280, None), spacing_width=8),
    node("strip", "ImageStitch", -360, 980, size=(280, None), spacing_width=8),
    node("fast", "PrimitiveBoolean", 980, 0, size=(280, None), title="Fast", value=True),
    node("fast_steps", "PrimitiveInt", 980, 120, size=(280, None), title="Fast: steps", value=4),
    node("best_steps", "PrimitiveInt", 980, 260, size=(280, None), title="Best: steps", value=40),
    node("steps", "ComfySwitchNode", 980, 400, size=(280, None), title="Steps"),
    node("fast_cfg", "PrimitiveFloat", 980, 540, size=(280, None), title="Fast: text guidance", value=1.0),
    node("best_cfg", "PrimitiveFloat", 980, 650, size=(280, None), title="Best: text guidance", value=5.0),
    node("cfg", "ComfySwitchNode", 980, 760, size=(280, None), title="Text guidance"),
    node("loader", "SteadyDancerLoader", 1320, 0, size=(400, None), variant="auto", step_distill=True),
    node("see", "SteadyDancerClipVision", 1320, 260, size=(400, None)),
    node("positive", "CLIPTextEncode", 1320, 480, title="Prompt", size=(400, 100), text=PROMPT),
    node("negative", "CLIPTextEncode", 1320, 650, title="Negative prompt", size=(400, 160), text=NEGATIVE),
    node("condition", "SteadyDancerToVideo", 1780, 0, size=(310, None), length=81, batch_size=1),
    node("guider", "SteadyDancerGuider", 1780, 360, size=(310, None), cfg=1.0, pose_cfg=1.0, start=0.1, end=0.4),
    node("schedule", "SteadyDancerSchedule", 1780, 640, size=(310, None), steps=4, shift=5.0),
    node("solver", "SteadyDancerFlowUniPC", 1780, 790, size=(310, None)),
    node("noise", "RandomNoise", 1780, 890, size=(310, None), noise_seed=106060, control_after_generate="randomize"),
    node("sample", "SamplerCustomAdvanced", 2150, 0, size=(310, None)),
    node("decode", "VAEDecode", 2150, 180, size=(310, None)),
    node("video", "CreateVideo", 2150, 300, size=(310, None), fps=16.0),
]  # fmt: skip

GROUPS = [
    ["Picture and dance", -20, -80, 320, 860],
    ["Poses", 320, -80, 620, 1150],
    ["Fast or best", 960, -80, 320, 980],
    ["Models and prompts", 1300, -80, 440, 910],
    ["Length, guidance, steps, seed", 1760, -80, 350, 1080],
    ["Sampling", 2130, -80, 350, 560],
    ["Look before you wait", -380, -80, 320, 1230],
]

LINKS = [
    "picture.IMAGE > fit.image",
    "dance.VIDEO > piece.video",
    "seconds.FLOAT > frames.values.a",
    "frames.INT > piece.frames",
    "frames.INT > condition.length",
    "fit.image > person.image",
    "piece.images > dancer.image",
    "dancer.keypoints > track.keypoints",
    "track.keypoints > align.driving",
    "person.keypoints > align.reference",
    "fit.width > align.width",
    "fit.height > align.height",
    "align.positive > draw.keypoints",
    "align.negative > draw_negative.keypoints",
    "align.positive > draw_check.keypoints",
    "fit.image > overlay.image1",
    "draw_check.images > overlay.image2",
    "overlay.IMAGE > first.image",
    "overlay.IMAGE > middle.image",
    "overlay.IMAGE > last.image",
    "first.IMAGE > beside.image1",
    "middle.IMAGE > beside.image2",
    "beside.IMAGE > strip.image1",
    "last.IMAGE > strip.image2",
    "strip.IMAGE > check.images",
    "fast.BOOLEAN > loader.step_distill",
    "best_steps.INT > steps.on_false",
    "fast_steps.INT > steps.on_true",
    "fast.BOOLEAN > steps.switch",
    "steps.output > schedule.steps",
    "best_cfg.FLOAT > cfg.on_false",
    "fast_cfg.FLOAT > cfg.on_true",
    "fast.BOOLEAN > cfg.switch",
    "cfg.output > guider.cfg",
    "loader.CLIP_VISION > see.clip_vision",
    "picture.IMAGE > see.image",
    "draw.images > see.pose_video",
    "loader.CLIP > positive.clip",
    "loader.CLIP > negative.clip",
    "positive.CONDITIONING > condition.positive",
    "negative.CONDITIONING > condition.negative",
    "loader.VAE > condition.vae",
    "see.clip_vision_output > condition.clip_vision_output",
    "see.pose_clip_vision_output > condition.pose_clip_vision_output",
    "fit.image > condition.start_image",
    "fit.width > condition.width",
    "fit.height > condition.height",
    "draw.images > condition.pose_video",
    "draw_negative.images > condition.negative_pose_video",
    "loader.MODEL > guider.model",
    "condition.positive > guider.positive",
    "condition.negative > guider.negative",
    "condition.pose_negative > guider.pose_negative",
    "noise.NOISE > sample.noise",
    "guider.GUIDER > sample.guider",
    "solver.SAMPLER > sample.sampler",
    "schedule.SIGMAS > sample.sigmas",
    "condition.latent > sample.latent_image",
    "sample.output > decode.samples",
    "loader.VAE > decode.vae",
    "decode.IMAGE > video.images",
    "piece.audio > video.audio",
    "piece.fps > video.fps",
    "video.VIDEO > save.video",
]

BOX = {
    "title": "3. SteadyDancer",
    "keys": [n["key"] for n in INSIDE],
    "labels": ["picture", "dance"],  # of what comes from outside, in the order of LINKS
    "outputs": ["poses", "video"],
    "inputs": [  # name, label, and the widget inside that it sets
        ["prompt", "prompt", "positive.text"],
        ["fast", "fast (4 steps)", "fast.value"],
        ["size", "size", "fit.area"],
        ["start", "start (seconds)", "piece.start"],
        ["seconds", "length (seconds)", "seconds.value"],
        ["pose_guidance", "pose guidance", "guider.pose_cfg"],
        ["noise_seed", "seed", "noise.noise_seed"],
    ],
    "pos": [488, 0],
    "size": [390, 280],
}

DANCE_GRAPH = {
    "nodes": OUTSIDE + INSIDE,
    "links": [link(path) for path in LINKS],
    "groups": GROUPS,
    "box": BOX,
}

# The same as a form: title of the node, name of its widget, and what the form calls it.
APP_NAME = "Dance from a picture and a video"
APP: dict[str, Any] = {
    "inputs": [
        ("1. Picture", "image", "Your picture"),
        ("2. Dance", "file", "The dance"),
        ("3. SteadyDancer", "prompt", "Who dances, where and how"),
        ("3. SteadyDancer", "fast", "Fast (off: best)"),
        ("3. SteadyDancer", "start", "Begin at second"),
        ("3. SteadyDancer", "seconds", "Length in seconds"),
    ],
    "outputs": ["4. The video"],
}

# The box by itself, in the node library, where "dance" and "SteadyDancer" find it.
BLUEPRINT_NAME = "SteadyDancer - dance from a picture and a video"
BLUEPRINT_CATEGORY = "Video generation and editing/SteadyDancer"
BLUEPRINT_DESCRIPTION = (
    "A picture of a person and a dance video become a video of that person dancing, with the dance's sound. "
    "The models come by themselves at the first run."
)
