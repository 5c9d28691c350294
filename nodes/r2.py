"""Saving to a bucket: encode into the output folder, check, upload, verify, and say where it is."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..base.cancel import Cancelled
from ..base.plain import one_line
from ..bucket import keys
from ..bucket.client import REQUESTS, StorageError
from ..media import encode
from ..services.node import Node
from ..services.progress import NodeProgress, cancelled, interruptible, stop
from ..services.r2_sender import Sender, Sent, check_profile, claimed, graph_tags, output_folder
from ..services.save_name import clean_prefix, free_file, hidden
from ..services.write_video import video_size, write_video

KEEP, DELETE = "keep the local file", "delete the local file after the check"
NO_GRAPH = "without its workflow, which does not fit into the file"

log = logging.getLogger(__name__)


def _prefix_input(default: str) -> io.String.Input:
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Folder and name below the output folder; a counter is put behind it.",
    )


def _profile_input() -> io.String.Input:
    # No list of names: everyone who reaches the server can read it, and it would tell where others save.
    return io.String.Input(
        "profile",
        default="auto",
        tooltip="Where to save to, by name: a profile of the profile file, or env for the R2_ variables. auto: these "
        "variables if they are set, else the file's first profile; with neither, the file stays on this machine. Keys "
        "are never part of a workflow.",
    )


def _key_inputs() -> list[io.Input]:
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
            tooltip="For how many minutes a link under the node opens the object, for anyone who has it. 0: no "
            "link. It is never saved.",
        ),
    ]


def _save_inputs() -> list[io.Input]:
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


class SteadyDancerR2SaveVideo(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerR2SaveVideo",
            display_name="Save Video to R2",
            category="SteadyDancer/result",
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
    def validate_inputs(cls, profile: str | None) -> bool | str:
        return check_profile(profile)

    @classmethod
    def execute(
        cls,
        video: Any,
        filename_prefix: str,
        profile: str,
        crf: int,
        after_upload: str,
        share_safe: bool,
        key: str,
        overwrite: bool,
        link_minutes: int,
        day_facts: bool,
    ) -> io.NodeOutput:
        width, height = video_size(video)
        name, counter, subfolder = _next_file(filename_prefix, width, height)
        graph = graph_tags(cls.hidden, share_safe)
        tags = encode.fitting_tags(graph)
        sender = Sender(cls.hidden, profile, key, overwrite, link_minutes, share_safe, day_facts)
        with interruptible():
            path = free_file(output_folder() / subfolder, name, counter, ".mp4")
            written = hidden(path)
            progress = partial(NodeProgress, cls.hidden.unique_id)
            said = write_video(video, written, tags, share_safe, crf, progress)
            said += [NO_GRAPH] if tags != graph else []
            with _shown(written, path):
                encode.check_video(path, tags)
                sent = sender.send(path, progress("B"))
                if sent.key and after_upload == DELETE:
                    path.unlink(missing_ok=True)
        sent = replace(sent, text="; ".join([sent.text, *said]))
        shown = sender.finish([sent], width=width, height=height)
        if path.exists():
            shown |= ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)]).as_dict()
        return io.NodeOutput(str(path), sent.key, sent.url, ui=shown)


class SteadyDancerR2SaveImages(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerR2SaveImages",
            display_name="Save Images to R2",
            category="SteadyDancer/result",
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
    def validate_inputs(cls, profile: str | None) -> bool | str:
        return check_profile(profile)

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        filename_prefix: str,
        profile: str,
        format: str,
        quality: int,
        after_upload: str,
        share_safe: bool,
        key: str,
        overwrite: bool,
        link_minutes: int,
        day_facts: bool,
    ) -> io.NodeOutput:
        height, width = images.shape[1:3]
        name, counter, subfolder = _next_file(filename_prefix, width, height)
        tags = graph_tags(cls.hidden, share_safe)
        sender = Sender(cls.hidden, profile, key, overwrite, link_minutes, share_safe, day_facts)
        failures: list[Exception] = []
        stopped = threading.Event()

        def save(image: torch.Tensor, path: Path) -> Sent | None:
            """Every image is saved even when the bucket fails; nothing is sent after the first failure."""
            if stopped.is_set() or cancelled():
                return None
            waiting.discard(path)
            written = hidden(path)
            _write_image(image, written, tags, quality)
            with _shown(written, path):
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

        folder, progress, results = output_folder() / subfolder, NodeProgress(cls.hidden.unique_id, "images"), []
        paths = [free_file(folder, name, counter + number, f".{format}") for number in range(len(images))]
        waiting = set(paths)
        try:
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
        finally:
            with suppress(OSError):
                for path in waiting:  # those that a Cancel left out; another server may have the other names by now
                    hidden(path).unlink(missing_ok=True)
        all_sent = [sent for sent in results if sent is not None]  # all of them: what was not sent has raised
        shown = sender.finish(all_sent, width=width, height=height)
        saved = [ui.SavedResult(path.name, subfolder, io.FolderType.output) for path in paths if path.exists()]
        return io.NodeOutput(
            [str(path) for path in paths],
            [sent.key for sent in all_sent],
            [sent.url for sent in all_sent],
            ui=shown | {"images": saved},
        )


class SteadyDancerR2Upload(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerR2Upload",
            display_name="Upload File to R2",
            category="SteadyDancer/result",
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
    def validate_inputs(cls, profile: str | None) -> bool | str:
        return check_profile(profile)

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **kwargs: Any) -> int:
        """A file that changed is uploaded again."""
        path = _output_file(file or "")
        return path.stat().st_mtime_ns if path else 0

    @classmethod
    def execute(cls, file: str, profile: str, key: str, overwrite: bool, link_minutes: int) -> io.NodeOutput:
        path = _output_file(file)
        if path is None:
            name = one_line(file)
            raise ValueError(f"There is no file '{name}' in the output folder. Give its path below that folder.")
        sender = Sender(cls.hidden, profile, key, overwrite, link_minutes)
        with claimed(path), interruptible():
            sent = sender.send(path, NodeProgress(cls.hidden.unique_id, "B"))
        return io.NodeOutput(sent.key, sent.url, ui=sender.finish([sent]))


def _output_file(name: str) -> Path | None:
    """The file of the output folder with this name, from any text; None where there is none."""
    try:
        path = (output_folder() / name).resolve()
    except (OSError, ValueError):  # no file can have such a name
        return None
    return path if path.is_relative_to(output_folder()) and os.path.isfile(path) else None


def _next_file(filename_prefix: str, width: int, height: int) -> tuple[str, int, str]:
    """Name, counter and subfolder for a new file of the output folder, by ComfyUI's own convention, from any text."""
    prefix = clean_prefix(filename_prefix)
    try:
        _, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory(), width, height
        )
    except OSError:  # no such folder can be made: the writer finds another place for what was rendered
        subfolder, _, name = prefix.rpartition("/")
        counter = int(time.time())
    return name, counter, subfolder


@contextmanager
def _shown(written: Path, path: Path) -> Iterator[None]:
    """Gives a file that was written under a hidden name its own one, claimed so that the folder sync does not send it too.

    The claim is no condition: what was rendered is there whatever comes of it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(path))
        except Exception as err:
            log.warning("%s is saved without a claim; the folder sync may send it as well. %s", path.name, err)
        finally:
            written.replace(path)
        yield


def _write_image(image: torch.Tensor, path: Path, tags: dict, quality: int) -> None:
    """One picture, without its graph where that cannot be put in. Raises ValueError in plain words, and leaves no half file."""
    pixels = image.mul(255).round().clamp(0, 255).byte().cpu().numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    try:
        try:
            encode.save_image(pixels, path, tags, quality)
        except ValueError as err:
            log.warning("%s is saved %s. %s", path.name.lstrip("."), NO_GRAPH, err)
            encode.save_image(pixels, path, {}, quality)
    except OSError as err:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise ValueError(
            f"{path.name.lstrip('.')} could not be written: {err.strerror or 'the disk did not take it'}. Those before it "
            "are in the output folder. Free some space and press Run again: ComfyUI still has the images in memory."
        ) from err
