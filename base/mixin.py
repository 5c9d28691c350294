"""How an object that ComfyUI made, of a class of its choice, gets behaviour of ours: nothing of ComfyUI is replaced."""

made: dict[tuple[type, type], type] = {}


def mixed(mixin: type, base: type) -> type:
    """`base` with `mixin` in front of it, the same class for the same two; `base` itself where it has the mixin already."""
    if issubclass(base, mixin):
        return base
    if (mixin, base) not in made:
        made[mixin, base] = type(f"{mixin.__name__}{base.__name__}", (mixin, base), {})
    return made[mixin, base]
