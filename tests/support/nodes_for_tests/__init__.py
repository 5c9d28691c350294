"""Nodes that exist in tests only. A shipped workflow runs with exactly one node replaced: CLIPLoader by TinyUMT5Loader."""

import io
import os
import sys
import time
from pathlib import Path

import comfy.sample
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import InputImpl

import nodes


def refuse_locks(code: Path) -> None:
    """As on a volume without file locks: ours are refused with the error whose number stands in the file."""
    import fcntl

    real = fcntl.flock

    def flock(*file_and_how):
        if sys._getframe(1).f_globals["__name__"].endswith(".base.lock"):
            number = int(code.read_text())
            raise OSError(number, os.strerror(number))
        return real(*file_and_how)

    fcntl.flock = flock


if "STEADYDANCER_TEST_LOCKS" in os.environ:
    refuse_locks(Path(os.environ["STEADYDANCER_TEST_LOCKS"]))


def note_listings(notes: Path) -> None:
    """Writes down each folder of models that is listed, in whatever way, and the module that wanted it."""
    models = Path(folder_paths.models_dir)

    def heard(event, arguments):
        if event in ("os.scandir", "os.listdir") and isinstance(arguments[0], str | Path):
            folder, frame = Path(arguments[0]), sys._getframe(1)
            while frame.f_globals["__name__"] in ("os", "pathlib", "glob", "shutil"):
                frame = frame.f_back
            if folder.is_relative_to(models):
                with open(notes, "a") as file:
                    file.write(f"{frame.f_globals['__name__']}\t{folder.relative_to(models)}\n")

    sys.addaudithook(heard)


if "STEADYDANCER_TEST_LISTINGS" in os.environ:
    note_listings(Path(os.environ["STEADYDANCER_TEST_LISTINGS"]))


class TinyUMT5Loader(nodes.CLIPLoader):
    """Core's CLIPLoader for the tiny UMT5 of tests/support/tiny.py, which is the real thing with fewer of everything."""

    CATEGORY = "SteadyDancer/tests"

    def load_clip(self, clip_name, type="wan", device="default"):
        path = folder_paths.get_full_path_or_raise("text_encoders", clip_name)
        sizes = {"num_layers": 1, "vocab_size": 64, "d_ff": 64, "num_heads": 4}
        options = {"umt5xxl_model_config": sizes}
        clip = comfy.sd.load_clip([path], clip_type=comfy.sd.CLIPType[type.upper()], model_options=options)
        return (clip,)


class NoImages:
    """An empty batch of images."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (torch.zeros(0, 96, 64, 3),)


class VideoInMemory:
    """A video file as some node packs hand it on: its bytes, without a path; or the file with a piece of it chosen."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls):
        optional = {"trim": ("FLOAT", {"default": 0.0, "min": -99.0}), "memory": ("BOOLEAN", {"default": True})}
        return {"required": {"video": ("VIDEO", {})}, "optional": optional}

    def read(self, video, trim=0.0, memory=True):
        source = video.get_stream_source()
        source = io.BytesIO(Path(source).read_bytes()) if memory else source
        return (InputImpl.VideoFromFile(source, start_time=trim),)


class OddAudio:
    """Sound as no writer takes it."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "make"
    KINDS = {
        "three channels": lambda: (torch.rand(1, 3, 48000) - 0.5, 48000),
        "ten channels": lambda: (torch.rand(1, 10, 48000) - 0.5, 48000),
        "a hundred channels": lambda: (torch.rand(1, 100, 4800) - 0.5, 48000),
        "40 kHz": lambda: (torch.rand(1, 2, 40000) - 0.5, 40000),
        "200 MHz": lambda: (torch.rand(1, 2, 40000) - 0.5, 200_000_000),
        "no rate": lambda: (torch.rand(1, 2, 40000) - 0.5, 0),
        "no numbers": lambda: (torch.full((1, 2, 48000), float("nan")), 48000),
        "huge numbers": lambda: (torch.full((1, 2, 48000), 1e30), 48000),
        "three at once": lambda: (torch.rand(3, 2, 48000) - 0.5, 48000),
        "half precision": lambda: ((torch.rand(1, 2, 48000) - 0.5).half(), 48000),
        "one row": lambda: (torch.rand(48000) - 0.5, 48000),
        "four dimensions": lambda: (torch.rand(1, 1, 2, 48000) - 0.5, 48000),
        "empty": lambda: (torch.zeros(1, 2, 0), 48000),
        "none at all": lambda: (torch.zeros(0, 2, 100), 48000),
        "a list": lambda: ([[0.0] * 100] * 2, 48000),
    }

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(cls.KINDS),)}}

    def make(self, kind):
        waveform, sample_rate = self.KINDS[kind]()
        return ({"waveform": waveform, "sample_rate": sample_rate},)


class OneBox:
    """A box as core's detectors give it."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = ("BOUNDING_BOX",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: ("INT", {}) for name in ("x", "y", "width", "height")}}

    def make(self, **box):
        return (box,)


class WithChannels:
    """The images with 1 channel (their mean), with 3 grey ones, or with a fourth: half transparent."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "change"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "channels": (["1", "grey 3", "4"],)}}

    def change(self, image, channels):
        if channels == "4":
            return (torch.cat([image, torch.full_like(image[..., :1], 0.5)], -1),)
        grey = image.mean(-1, keepdim=True)
        return (grey if channels == "1" else grey.repeat(1, 1, 1, 3),)


class NoiseOfBatchItem:
    """The noise that one item of a batch gets, for a run of that item alone."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = ("NOISE",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"noise_seed": ("INT", {}), "item": ("INT", {}), "batch_size": ("INT", {})}}

    def make(self, noise_seed, item, batch_size):
        return (BatchItemNoise(noise_seed, item, batch_size),)


class BatchItemNoise:
    def __init__(self, seed, item, batch_size):
        self.seed, self.item, self.batch_size = seed, item, batch_size

    def generate_noise(self, latent):
        samples = latent["samples"]
        whole = samples.expand(self.batch_size, *samples.shape[1:])
        return comfy.sample.prepare_noise(whole, self.seed)[self.item : self.item + 1]


class SlowImage:
    """Hands an image through after a while, one step of progress every tenth of a second; Cancel stops it."""

    CATEGORY = "SteadyDancer/tests"
    FUNCTION = "wait"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "seconds": ("FLOAT", {"default": 1.0, "max": 600.0})}}

    def wait(self, image, seconds):
        steps = max(1, round(seconds * 10))
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(0.1)
            bar.update(1)
        return (image,)


class AnyType(str):
    """A socket that every type fits."""

    def __ne__(self, other):
        return False


class RunsOutOfMemory:
    """The object, which runs out of memory the first `times` times that it computes; counted for all prompts by `mark`."""

    CATEGORY = "SteadyDancer/tests"
    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "wrap"
    counts: dict[str, int] = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "value": (AnyType("*"),),
                "phase": ("STRING", {}),
                "times": ("INT", {}),
                "mark": ("STRING", {}),
            }
        }

    def wrap(self, value, phase, times, mark):
        owner, method = {
            "text_encode": lambda: (value.cond_stage_model, "encode_token_weights"),
            "image_encode": lambda: (value.model, "forward"),
            "vae_encode": lambda: (value.first_stage_model, "encode"),
            "sample": lambda: (value.model.diffusion_model, "forward"),
            "vae_decode": lambda: (value.first_stage_model, "decode"),
        }[phase]()
        original = getattr(owner, method)
        self.counts.setdefault(mark, times)

        def fail_first(*args, **kwargs):
            if self.counts[mark] > 0:
                self.counts[mark] -= 1
                raise torch.OutOfMemoryError("simulated")
            return original(*args, **kwargs)

        setattr(owner, method, fail_first)
        return (value,)


NODE_CLASS_MAPPINGS = {
    "RunsOutOfMemory": RunsOutOfMemory,
    "TinyUMT5Loader": TinyUMT5Loader,
    "NoImages": NoImages,
    "VideoInMemory": VideoInMemory,
    "OddAudio": OddAudio,
    "OneBox": OneBox,
    "WithChannels": WithChannels,
    "NoiseOfBatchItem": NoiseOfBatchItem,
    "SlowImage": SlowImage,
}
