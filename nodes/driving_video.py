"""The dance: a piece of a video as frames and sound."""

from typing import Any

import torch
from comfy_api.latest import InputImpl, io

from ..machine.memory import free_ram
from ..media import encode
from ..media.container import opened
from ..media.read_video import read_clip
from ..services.node import Node
from ..services.progress import NodeProgress, cancelled, interruptible, say
from ..services.write_video import parts_of

MODEL_FPS = "16 (the model's)"
SOURCE_FPS = "the video's own"


class SteadyDancerDrivingVideo(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerDrivingVideo",
            display_name="Driving Video",
            category="SteadyDancer",
            description="Takes a piece of a dance video as frames, with its sound. Reads only what is asked for.",
            search_aliases=["load video", "trim", "frame rate", "fps", "dance", "audio"],
            inputs=[
                io.Video.Input(
                    "video",
                    tooltip="The dance, from Load Video: MP4, MOV, MKV, WebM, AVI and other plain video files. Playlists are not opened.",
                ),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=86400.0, step=0.1, tooltip="Where to begin, in seconds."
                ),
                io.Int.Input(
                    "frames",
                    default=81,
                    min=0,
                    max=100000,
                    tooltip="How many frames; 81 is what the model was made for, five seconds. 0 is all.",
                ),
                io.Combo.Input(
                    "fps",
                    options=[MODEL_FPS, SOURCE_FPS],
                    tooltip="Frames a second. The model's 16 keeps the dance's speed and sound. The video's own takes every "
                    "frame, as the published code does; then give fps to the saved video too.",
                ),
                io.Int.Input(
                    "longest_side",
                    default=1280,
                    min=0,
                    max=8192,
                    step=16,
                    tooltip="The longest side allowed, in pixels: larger videos are scaled down, which saves memory. 0 keeps the size.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Audio.Output(
                    display_name="audio", tooltip="The sound of this piece; empty where the video has none."
                ),
                io.Float.Output(display_name="fps"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, video: Any, start: float, frames: int, fps: str, longest_side: int) -> io.NodeOutput:
        with interruptible():
            if not isinstance(video, InputImpl.VideoFromFile):  # ComfyUI encodes it, and takes only some kinds of sound
                parts = parts_of(video)
                video = parts.video(encode.WatchedFrames(parts.frames, lambda done, total: None, cancelled))
            source = video.get_stream_source()
            with opened(source, cancelled):  # a playlist must be refused before ComfyUI opens it
                begin, length = video.get_active_trim_window()
            if length and start >= length:
                raise ValueError(
                    f"The piece of the video is {length:.1f} s long, so nothing is left after {start:.1f} s. "
                    "Choose an earlier start."
                )
            clip = read_clip(
                source,
                begin + start,
                frames,
                16.0 if fps == MODEL_FPS else 0.0,
                longest_side,
                length - start if length else 0.0,
                free_ram(),
                NodeProgress(cls.hidden.unique_id),
                cancelled,
            )
        count, height, width = clip.frames.shape[:3]
        ends = f"; the video ends here, {frames} were asked for" if count < frames else ""
        heard = "with sound" if clip.sound is not None else "without sound"
        note = f" ({clip.sound_note})" if clip.sound_note else ""
        say(
            cls.hidden.unique_id,
            f"{count} frames of {width}×{height}, {count / clip.fps:.1f} s at {clip.fps:g} a second, {heard}{note}{ends}",
        )
        audio = None
        if clip.sound is not None:
            audio = {"waveform": torch.from_numpy(clip.sound)[None], "sample_rate": clip.sample_rate}
        return io.NodeOutput(torch.from_numpy(clip.frames), audio, clip.fps)
