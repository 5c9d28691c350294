"""What a name stands for: profiles, variants, `auto`, and the environment toggles of rented machines."""

import difflib
import itertools
import re
from collections.abc import Callable

from ..base import environment
from ..base.variables import GROUPS
from .catalog import Catalogue, ModelFile, Profile, catalogue

STEP_DISTILL = "lightx2v-i2v-480p-rank64"  # the file that `step_distill` of the loader and the planner means


def quants(family: str) -> dict[str, str]:
    """GGUF type → the family's variant in it, smallest first."""
    book = catalogue()
    files = {variant.id: book.diffusion(variant) for variant in book.variants.values() if variant.family == family}
    return {file.precision: variant for variant, file in files.items() if file and file.format == "gguf"}


def of_precision(family: str, precision: str) -> str:
    """The family's variant in a precision, of which there is one."""
    book = catalogue()
    found = {variant.id: book.diffusion(variant) for variant in book.variants.values() if variant.family == family}
    return next(variant for variant, file in found.items() if file and file.precision == precision)


def match(name: str, book: Catalogue) -> str | None:
    """The variant id that equals `name` but for upper and lower case."""
    return next((variant for variant in book.variants if variant.lower() == name.lower()), None)


def files_of(names: list[str], automatic: Callable[[str], str]) -> list[ModelFile]:
    """The files that profiles, variants and file ids stand for, each once, in the order of the names.

    `automatic` gives the variant that `auto` means of a family: what exists is known here, what suits a machine is not.
    Raises ValueError for an unknown name, with the names most like it.
    """
    book = catalogue()
    found: dict[str, ModelFile] = {}
    for name in names:
        items = profile_items(book.profiles[name]) if name in book.profiles else [name]
        for item in items:
            item = automatic(item.removesuffix("/auto")) if item.endswith("/auto") else item
            variant = match(item, book)
            if not variant and item not in book.files:
                known = [*book.profiles, *book.variants, *book.files]
                near = difflib.get_close_matches(item, known, n=4, cutoff=0.4)
                offer = f"Did you mean {' or '.join(near)}?" if near else "`cli.py list` shows what there is."
                raise ValueError(f"'{item}' is not in the catalogue. {offer}")
            for file in book.variants[variant].files if variant else (item,):
                found[file] = book.files[file]
    return list(found.values())


def profile_items(profile: Profile) -> list[str]:
    """A profile's items with its variables filled in; a comma list in one makes an item of each."""
    choices = {name: split(environment.text(name, default)) for name, default in profile.choices.items()}
    items = []
    for item in profile.items:
        used = [name for name in choices if f"{{{name}}}" in item]
        for values in itertools.product(*(choices[name] for name in used)):
            meant = (profile.words.get(value.lower(), value) for value in values)
            items.append(item.format(**dict(zip(used, meant))))
    return items


def split(text: str) -> list[str]:
    """The names in a text that separates them by commas, blanks or lines."""
    return [part for part in re.split(r"[\s,]+", text) if part]


VOICES = (
    "no model file of ours: install the node pack TTS-Audio-Suite (diodiogod/TTS-Audio-Suite), which fetches its own"
)
ELSEWHERE = {"ENABLE_CHATTERBOX": VOICES, "ENABLE_XTTS": VOICES}


def unanswered() -> dict[str, str]:
    """The ENABLE_… variables that are true and that nothing here answers to, and what to do, in words that follow them."""
    book, ours = catalogue(), {variable.name for group in GROUPS for variable in group.variables}
    ours |= {name for profile in book.profiles.values() for name in profile.env}
    wanted = [name for name in environment.names("ENABLE_") if name not in ours and environment.is_true(name)]
    return {
        name: ELSEWHERE.get(name, "nothing here answers to it; `cli.py env` shows what there is") for name in wanted
    }


def profiles_from_environment() -> list[str]:
    """The profiles whose toggles are all true."""
    return [
        profile.name
        for profile in catalogue().profiles.values()
        if profile.env and all(environment.flag(name) for name in profile.env)
    ]
