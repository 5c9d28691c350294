"""Saving to a bucket: encode into the output folder, check, upload, verify, and say where it is."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folder_paths
from comfy_api.latest import InputImpl, Types, io, ui

from ..storage import encode, keys
from ..storage.client import REQUESTS, Cancelled, StorageError
from .progress import NodeProgress, cancelled, stop
from .r2_service import Sender, Sent, check_profile, claimed, graph_tags, interruptible, output_folder

KEEP, DELETE = "keep the local file", "delete the local file after the check"
LONGEST_NAME = 200  # bytes; ComfyUI puts a counter behind it


def _prefix_input(default: str):
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Folder and name below the output folder; a counter is put behind it.",
    )


def _profile_input():
    # No list of names: everyone who reaches the server can read it, and it would tell where others save.
    return io.String.Input(
        "profile",
        default="auto",
        tooltip="Where to save to, by name: a profile of the profile file, or env for the R2_ variables. auto: these "
        "variables if they are set, else the file's first profile; with neither, the file stays on this machine. Keys "
        "are never part of a workflow.",
    )


def _key_inputs():
    return [
        io.String.Input(
            "key",
            default=keys.TEMPLATE,
            advanced=True,
            tooltip="The object's name. Tokens: {prefix} of the profile, {date}, {time}, {name}, {stem}, {ext}, {folder}, "
            "{counter}, {seed}, {prompt_id}, {title} of this node.",
        ),
        io.Boolean.Input(
            "overwrite",
            default=False,
            advanced=True,
            tooltip="Replace an object of the same name. Off: the new one gets -2, -3 … behind its name.",
        ),
        io.Int.Input(
            "link_minutes",
            default=0,
            min=0,
            max=60,
            advanced=True,
            tooltip="Show a link under the node that opens the object for so many minutes, for anyone who has it. 0: no "
            "link. It is never saved.",
        ),
    ]


def _save_inputs():
    return [
        io.Combo.Input(
            "after_upload",
            options=[KEEP, DELETE],
            default=KEEP,
            tooltip="What happens to the file in the output folder once the bucket is known to hold it.",
        ),
        io.Boolean.Input(
            "share_safe",
            default=False,
            tooltip="Leave workflow and prompt out of the file and of metadata.json, for results that you publish.",
        ),
        *_key_inputs(),
        io.Boolean.Input(
            "day_facts",
            default=False,
            advanced=True,
            tooltip="Note seed, models, seconds and peak VRAM in a metadata.json beside the day's objects.",
        ),
    ]


HIDDEN = [io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id]


class SteadyDancerR2SaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SteadyDancerR2SaveVideo",
            display_name="Save Video to R2",
            category="SteadyDancer",
            description="Saves the video as MP4 in the output folder and uploads it to Cloudflare R2 or another S3 bucket.",
            search_aliases=["s3", "cloudflare", "upload", "cloud", "save video"],
            is_output_node=True,
            hidden=HIDDEN,
            inputs=[
                io.Video.Input("video", tooltip="The video to save, with its sound."),
                _prefix_input("video/SteadyDancer"),
                _profile_input(),
                io.Int.Input(
                    "crf",
                    default=19,
                    min=0,
                    max=51,
                    tooltip="Quality of the encoding: lower is better and larger, 19 looks like the source. A video that is "
                    "H.264 in MP4 already is copied as it is.",
                ),
                *_save_inputs(),
            ],
            outputs=[
                io.String.Output(display_name="path"),
                io.String.Output(display_name="key"),
                io.String.Output(display_name="url"),
            ],
        )

    @classmethod
    def validate_inputs(cls, profile):
        return check_profile(profile)

    @classmethod
    def execute(
        cls, video, filename_prefix, profile, crf, after_upload, share_safe, key, overwrite, link_minutes, day_facts
    ) -> io.NodeOutput:
        width, height = video.get_dimensions()
        name, counter, subfolder = _next_file(filename_prefix, width, height)
        path = output_folder() / subfolder / f"{name}_{counter:05}_.mp4"
        tags = graph_tags(cls.hidden, share_safe)
        sender = Sender(cls.hidden, profile, key, overwrite, link_minutes, share_safe, day_facts)
        with claimed(path), interruptible():
            _write_video(video, path, tags, share_safe, crf, NodeProgress(cls.hidden.unique_id))
            encode.check_video(path, tags)
            sent = sender.send(path, NodeProgress(cls.hidden.unique_id, "B"))
            if sent.key and after_upload == DELETE:
                path.unlink(missing_ok=True)
        shown = {"text": (sender.finish([sent], width=width, height=height),)}
        if path.exists():
            shown |= ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)]).as_dict()
        return io.NodeOutput(str(path), sent.key, sent.url, ui=shown)


class SteadyDancerR2SaveImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SteadyDancerR2SaveImages",
            display_name="Save Images to R2",
            category="SteadyDancer",
            description="Saves a batch of images in the output folder and uploads them to Cloudflare R2 or another S3 bucket.",
            search_aliases=["s3", "cloudflare", "upload", "cloud", "save image"],
            is_output_node=True,
            hidden=HIDDEN,
            inputs=[
                io.Image.Input("images", tooltip="The images to save."),
                _prefix_input("SteadyDancer"),
                _profile_input(),
                io.Combo.Input(
                    "format",
                    options=["png", "webp", "jpg"],
                    default="png",
                    tooltip="png is lossless; webp is smaller; jpg opens everywhere but has little room for a workflow.",
                ),
                io.Int.Input(
                    "quality",
                    default=95,
                    min=1,
                    max=100,
                    tooltip="For webp, where 100 is lossless, and for jpg.",
                ),
                *_save_inputs(),
            ],
            outputs=[
                io.String.Output(display_name="path", is_output_list=True),
                io.String.Output(display_name="key", is_output_list=True),
                io.String.Output(display_name="url", is_output_list=True),
            ],
        )

    @classmethod
    def validate_inputs(cls, profile):
        return check_profile(profile)

    @classmethod
    def execute(
        cls,
        images,
        filename_prefix,
        profile,
        format,
        quality,
        after_upload,
        share_safe,
        key,
        overwrite,
        link_minutes,
        day_facts,
    ) -> io.NodeOutput:
        height, width = images.shape[1:3]
        name, counter, subfolder = _next_file(filename_prefix, width, height)
        folder = output_folder() / subfolder
        paths = [folder / f"{name}_{counter + number:05}_.{format}" for number in range(len(images))]
        tags = graph_tags(cls.hidden, share_safe)
        sender = Sender(cls.hidden, profile, key, overwrite, link_minutes, share_safe, day_facts)
        stopped, failures = threading.Event(), []

        def save(image, path: Path) -> Sent | None:
            """Every image is saved even when the bucket fails; nothing is sent after the first failure."""
            if stopped.is_set() or cancelled():
                return None
            pixels = image.mul(255).round().clamp(0, 255).byte().cpu().numpy()
            with claimed(path):
                encode.save_image(pixels, path, tags, quality)
                if failures:
                    return None
                try:
                    sent = sender.send(path, cancelled=lambda: stopped.is_set() or cancelled())
                except (Cancelled, StorageError) as err:
                    failures.append(err)
                    return None
                if sent.key and after_upload == DELETE:
                    path.unlink(missing_ok=True)
            return sent

        progress, results = NodeProgress(cls.hidden.unique_id, "images"), []
        with ThreadPoolExecutor(REQUESTS) as pool, interruptible():
            try:
                for sent in pool.map(save, images, paths):
                    stop()
                    results.append(sent)
                    progress(len(results), len(paths))
            except BaseException:
                stopped.set()
                raise
            if failures:
                raise failures[0]
        text = sender.finish(results, width=width, height=height)
        saved = [ui.SavedResult(path.name, subfolder, io.FolderType.output) for path in paths if path.exists()]
        return io.NodeOutput(
            [str(path) for path in paths],
            [sent.key for sent in results],
            [sent.url for sent in results],
            ui={"text": (text,), "images": saved},
        )


class SteadyDancerR2Upload(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SteadyDancerR2Upload",
            display_name="Upload File to R2",
            category="SteadyDancer",
            description="Uploads a file that is in the output folder already: after a failed upload, or what another node saved.",
            search_aliases=["s3", "cloudflare", "retry", "cloud"],
            is_output_node=True,
            hidden=HIDDEN,
            inputs=[
                io.String.Input(
                    "file",
                    default="",
                    placeholder="video/SteadyDancer_00001_.mp4",
                    tooltip="The file's path below the output folder, as a failed save node names it.",
                ),
                _profile_input(),
                *_key_inputs(),
            ],
            outputs=[io.String.Output(display_name="key"), io.String.Output(display_name="url")],
        )

    @classmethod
    def validate_inputs(cls, profile):
        return check_profile(profile)

    @classmethod
    def fingerprint_inputs(cls, file, **kwargs):
        """A file that changed is uploaded again."""
        path = _output_file(file or "")
        return path.stat().st_mtime_ns if path else 0

    @classmethod
    def execute(cls, file, profile, key, overwrite, link_minutes) -> io.NodeOutput:
        path = _output_file(file)
        if path is None:
            name = keys.shown(file)
            raise ValueError(f"There is no file '{name}' in the output folder. Give its path below that folder.")
        sender = Sender(cls.hidden, profile, key, overwrite, link_minutes)
        with claimed(path), interruptible():
            sent = sender.send(path, NodeProgress(cls.hidden.unique_id, "B"))
        return io.NodeOutput(sent.key, sent.url, ui=ui.PreviewText(sender.finish([sent])))


def _output_file(name: str) -> Path | None:
    """The file of the output folder with this name, from any text; None where there is none."""
    try:
        path = (output_folder() / name).resolve()
    except (OSError, ValueError):  # no file can have such a name
        return None
    return path if path.is_relative_to(output_folder()) and os.path.isfile(path) else None


def _next_file(filename_prefix: str, width: int, height: int) -> tuple[str, int, str]:
    """Name, counter and subfolder for a new file of the output folder, by ComfyUI's own convention, from any text."""
    prefix = keys.clean(filename_prefix, LONGEST_NAME)
    _, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return name, counter, subfolder


def _write_video(video, path: Path, tags: dict, share_safe: bool, crf: int, progress: NodeProgress) -> None:
    """ComfyUI's own writer, with progress, cancel, and no half file left behind."""
    options = {"format": Types.VideoContainer.MP4, "codec": Types.VideoCodec.H264}
    try:
        if isinstance(video, InputImpl.VideoFromFile):
            start, duration = video.get_active_trim_window()
            # Asked for anew each time: that rewinds a video in memory.
            as_it_is = not start and not duration and encode.is_mp4_h264(video.get_stream_source())
            # The writer copies the source's tags; another run's workflow must not stay in.
            old = encode.video_tags(video.get_stream_source())
            tags = {name: "" for name in old if share_safe or name in encode.GRAPH_TAGS} | tags
            source = video.get_stream_source()
            watched = encode.WatchedFile(source, progress, cancelled) if isinstance(source, str) else source
            video = InputImpl.VideoFromFile(watched, start_time=start, duration=duration)
            video.save_to(str(path), metadata=tags, crf=None if as_it_is else crf, **options)
        else:
            parts = video.get_components()
            frames = parts.images[..., :3]
            if frames.shape[1] % 2 or frames.shape[2] % 2:
                raise ValueError(
                    f"The frames are {frames.shape[2]}×{frames.shape[1]}, and H.264 needs an even width and height. "
                    "Crop or pad them by one pixel."
                )
            parts = Types.VideoComponents(
                images=encode.WatchedFrames(frames, progress, cancelled), audio=parts.audio, frame_rate=parts.frame_rate
            )
            video = InputImpl.VideoFromComponents(parts, bit_depth=video.get_bit_depth())
            video.save_to(str(path), metadata=tags, crf=crf, **options)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
