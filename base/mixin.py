"""How an object that ComfyUI made, of a class of its choice, gets behaviour of ours: nothing of ComfyUI is replaced."""

from functools import lru_cache


@lru_cache
def mixed(mixin: type, base: type) -> type:
    """`base` with `mixin` in front of it, the same class for the same two; `base` itself where it has the mixin already."""
    return base if issubclass(base, mixin) else type(f"{mixin.__name__}{base.__name__}", (mixin, base), {})
