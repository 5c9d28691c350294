"""Text encoders, image encoders and VAEs that are fetched and loaded when somebody first uses them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.clip_vision
import comfy.sd

from .run import PlannedRun

Told = Callable[
    [str], AbstractContextManager[None]
]  # says under the node what happens inside, by the name of the phase
NO_USE = ("patcher", "get_models")  # what ComfyUI looks for on every result that it keeps, to count memory


class OnFirstUse:
    """A ComfyUI object that is fetched and loaded when something first asks it for anything.

    Until then it has no attributes; afterwards it has those of the loaded object and is in every way one of its class.
    A failure leaves it as it was, so the next use tries again.
    """

    def __init__(
        self, load: Callable[[], object], run: PlannedRun | None = None, told: Told = lambda _: nullcontext()
    ) -> None:
        self.__dict__.update(load_now=load, run=run, told=told)

    @contextmanager
    def measured(self, phase: str) -> Iterator[None]:
        """Says under the node what happens inside, and measures it where there is a plan to compare it with."""
        with self.told(phase), self.run.measured(phase, self.patcher) if self.run else nullcontext():
            yield

    def __getattribute__(self, name: str) -> Any:
        mine = object.__getattribute__(self, "__dict__")
        if "load_now" in mine and name not in NO_USE and not name.startswith("__"):
            loaded = mine["load_now"]()
            del mine["load_now"]
            mine.update(loaded.__dict__)
        return object.__getattribute__(self, name)


class LazyCLIP(OnFirstUse, comfy.sd.CLIP):
    """A text encoder that is fetched and loaded when it first encodes."""

    def encode_from_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's, measured."""
        with self.measured("text_encode"):
            return super().encode_from_tokens(*args, **kwargs)


class LazyClipVision(OnFirstUse, comfy.clip_vision.ClipVisionModel):
    """An image encoder that is fetched and loaded when it first encodes."""

    def encode_image(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's, measured."""
        with self.measured("image_encode"):
            return super().encode_image(*args, **kwargs)


class LazyVAE(OnFirstUse, comfy.sd.VAE):
    """`whole`: whether whole frames were asked for, so that tiles mean that they did not fit."""

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's, measured."""
        self.whole = True
        with self.measured("vae_encode"):
            return super().encode(*args, **kwargs)

    def encode_tiled(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's: the user asks for tiles."""
        self.whole = False
        return super().encode_tiled(*args, **kwargs)

    def encode_tiled_3d(self, *args: Any, **kwargs: Any) -> Any:
        """What ComfyUI itself falls back to when whole frames do not fit, which is noted."""
        if self.run and self.whole:
            self.run.rescued("vae_encode")
        return super().encode_tiled_3d(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's, measured."""
        self.whole = True
        with self.measured("vae_decode"):
            return super().decode(*args, **kwargs)

    def decode_tiled(self, *args: Any, **kwargs: Any) -> Any:
        """As ComfyUI's, measured: the user asks for tiles."""
        self.whole = False
        with self.measured("vae_decode"):
            return super().decode_tiled(*args, **kwargs)

    def decode_tiled_3d(self, *args: Any, **kwargs: Any) -> Any:
        """What ComfyUI itself falls back to when whole frames do not fit, which is noted."""
        if self.run and self.whole:
            self.run.rescued("vae_decode")
        return super().decode_tiled_3d(*args, **kwargs)
