"""The catalogue: which model files exist, where they are published, where they belong, and which of them make a variant.

The data is families/*.toml, one file a family, and profiles.toml. This module gives it types; that it is right is checked
by tests/unit/test_catalog.py, since nobody but us edits it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..base.toml import read_toml

DATA = Path(__file__).parent
PARTS = ("diffusion", "text_encoder", "clip_vision", "vae", "extra")


@dataclass(frozen=True)
class Source:
    """One place that publishes a file.

    `kind` is `hub` (a file `path` of the Hugging Face repository `where`), `pattern` (the first name in that
    repository's listing that one of `patterns` matches), `snapshot` (the whole repository), `url`, or `civitai`
    (`where` is a version id).
    """

    kind: str
    where: str
    path: str = ""
    patterns: tuple[str, ...] = ()
    revision: str = "main"


@dataclass(frozen=True)
class ModelFile:
    """One file, or one snapshot folder, of a family.

    `name` is relative to the models folder `folder`, and empty where only the repository's listing can tell it.
    `bytes` and `sha256` (a prefix is allowed) are set where the publisher states them; `gb` is for planning only.
    `confirmed` says where the published name was seen; `listing` means nowhere, so that the listing is asked first.
    `format` is what it is packed in: safetensors, gguf, onnx, pickle, text, folder. Of a diffusion model, `precision` is how most of its
    weights are stored (fp32, bf16, fp16, fp8, int8, int8_convrot or a GGUF type) and `architecture` which network they
    belong to. One that nobody publishes has no sources: it is made here of the file `made_from`.
    """

    id: str
    family: str
    role: str
    folder: str
    name: str
    format: str
    licence: str
    confirmed: str
    sources: tuple[Source, ...]
    bytes: int | None
    sha256: str
    gb: float
    full_precision: bool = False  # an fp8 file that asks for products in 16 bits
    precision: str = ""
    architecture: str = ""
    made_from: str = ""

    @property
    def patterns(self) -> tuple[str, ...]:
        """File names that count as this file on disk."""
        if self.converted:
            return (self.name, self.converted)
        if self.name:
            return (self.name,)
        return tuple(pattern.rsplit("/", 1)[-1] for source in self.sources for pattern in source.patterns)

    @property
    def converted(self) -> str:
        """The name of the safetensors file that a pickled model is converted to; it stands for the published one."""
        return (
            str(Path(self.name).with_suffix(".safetensors"))
            if (self.format, self.role) == ("pickle", "diffusion")
            else ""
        )

    @property
    def size(self) -> int:
        """Bytes: what the publisher states, else our estimate."""
        return self.bytes or round(self.gb * 1e9)


@dataclass(frozen=True)
class Variant:
    """A choice of a family that a loader can build from: ids of files by part, `steadydancer/fp8` as its own id.

    Several diffusion files are the shards of one model, or where there are two `experts`, a file of each.
    """

    id: str
    family: str
    title: str
    diffusion: tuple[str, ...]
    text_encoder: tuple[str, ...]
    clip_vision: tuple[str, ...]
    vae: tuple[str, ...]
    extra: tuple[str, ...]
    experts: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        """Ids of all its files, in the order of PARTS."""
        return tuple(file for part in PARTS for file in getattr(self, part))


@dataclass(frozen=True)
class Family:
    """Variants of one model.

    `loader` is the kind of loader that they need: steadydancer, turbo (TurboDiffusion), pose, core for all that ComfyUI loads
    by itself, empty for download only. `clip_type` is core's name of the text encoder. `default` is the variant to take where
    nothing is known to choose by; families without one offer no choice.
    """

    id: str
    title: str
    loader: str
    clip_type: str
    default: str


@dataclass(frozen=True)
class Profile:
    """A named set: `items` are variant and file ids, `{NAME}` in them is a variable whose default is in `choices`.

    `words`: what else a variable may say, in small letters, and what it means. `--from-env` takes the profile when every
    variable of `env` is true. `graph` is the template of ComfyUI whose files these are, empty where there is none.
    """

    name: str
    title: str
    items: tuple[str, ...]
    env: tuple[str, ...]
    choices: dict[str, str]
    words: dict[str, str]
    graph: str


@dataclass(frozen=True)
class Catalogue:
    """Everything that can be fetched, by its id, in the order of the TOML files."""

    families: dict[str, Family]
    files: dict[str, ModelFile]
    variants: dict[str, Variant]
    profiles: dict[str, Profile]

    def variants_for(self, loader: str) -> list[Variant]:
        """The variants that a kind of loader loads, in catalogue order."""
        return [variant for variant in self.variants.values() if self.families[variant.family].loader == loader]

    def diffusion(self, variant: Variant) -> ModelFile | None:
        """The file that says what a variant's diffusion model is: the first, since shards and experts are alike."""
        return self.files[variant.diffusion[0]] if variant.diffusion else None


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The shipped catalogue, read once."""
    return read(DATA / "families", DATA / "profiles.toml")


def read(families: Path, profiles: Path) -> Catalogue:
    """Reads a folder of family files and a profiles file."""
    book = Catalogue({}, {}, {}, {})
    for path in sorted(families.glob("*.toml")):
        read_family(read_toml(path), book)
    for name, entry in read_toml(profiles)["profiles"].items():
        lists = (tuple(entry["items"]), tuple(entry.get("env", ())))
        tables = (entry.get("choices", {}), entry.get("words", {}))
        book.profiles[name] = Profile(name, entry["title"], *lists, *tables, entry.get("graph", ""))
    return book


def read_family(data: dict, book: Catalogue) -> None:
    """Adds one family's file to the catalogue."""
    texts = [data.get(field, "") for field in ("loader", "clip_type", "default")]
    family = Family(data["id"], data["title"], *texts)
    book.families[family.id] = family
    for name, entry in tables(data.get("files", {})):
        given = {"licence": data["licence"], "name": "", "bytes": None, "sha256": "", "gb": 0.0, **entry}
        sources = tuple(map(read_source, entry.get("sources", ())))
        book.files[name] = ModelFile(id=name, family=family.id, **{**given, "sources": sources})
    for name, entry in tables(data.get("variants", {})):
        # a family of several models, TurboDiffusion, writes its variants' ids out
        name = name if "/" in name else f"{family.id}/{name}"
        parts = {part: tuple(entry.get(part, ())) for part in PARTS}
        book.variants[name] = Variant(name, family.id, entry["title"], **parts, experts=entry.get("experts", 1))


def read_source(entry: dict) -> Source:
    """{hub, path}, {hub, patterns}, {hub}, {url} or {civitai}, the first three with a `revision` if not main."""
    revision = entry.get("revision", "main")
    if "hub" in entry:
        kind = "hub" if "path" in entry else "pattern" if "patterns" in entry else "snapshot"
        return Source(kind, entry["hub"], entry.get("path", ""), tuple(entry.get("patterns", ())), revision)
    ((kind, where),) = entry.items()
    return Source(kind, str(where))


def tables(entries: dict) -> Iterator[tuple[str, dict]]:
    """Name and fields of each entry. One with `each = […]` stands for several, `{each}` replaced in all its texts; a list
    of `gb` or `precision` then has a value for each."""
    for name, data in entries.items():
        for index, each in enumerate(data.get("each", [""])):
            entry = {field: fill(value, each) for field, value in data.items() if field != "each"}
            for field in ("gb", "precision"):
                if isinstance(entry.get(field), list):
                    entry[field] = entry[field][index]
            yield fill(name, each), entry


def fill(value: Any, each: str) -> Any:
    """`value` with `{each}` replaced in every text inside it."""
    if isinstance(value, str):
        return value.replace("{each}", each)
    if isinstance(value, list):
        return [fill(item, each) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, each) for key, item in value.items()}
    return value
