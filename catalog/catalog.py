"""The catalogue: which model files exist, where they are published, where they belong, and which of them make a variant.

The data is families/*.toml, one file a family, and profiles.toml. This module gives it types and refuses what is wrong
in it, naming file and line.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..toml import tomllib

DATA = Path(__file__).parent
ROLES = (
    "diffusion",
    "text_encoder",
    "clip_vision",
    "vae",
    "lora",
    "pose",
    "detector",
    "checkpoint",
    "embedding",
    "controlnet",
    "bundle",
)
FORMATS = ("safetensors", "gguf", "onnx", "pickle", "folder")
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
    full_precision: bool  # an fp8 file that asks for products in 16 bits

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
    """A choice of a family that a loader can build from: ids of files by part, `steadydancer/fp8` as its own id."""

    id: str
    family: str
    title: str
    diffusion: tuple[str, ...]
    text_encoder: tuple[str, ...]
    clip_vision: tuple[str, ...]
    vae: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for part in PARTS for file in getattr(self, part))


@dataclass(frozen=True)
class Family:
    """Variants of one model. `loader` is the node that loads them, empty for download only; `clip_type` is core's."""

    id: str
    title: str
    loader: str
    clip_type: str


@dataclass(frozen=True)
class Profile:
    """A named set: `items` are variant and file ids, `{NAME}` in them is a variable whose default is in `choices`.

    `--from-env` takes the profile when every variable of `env` is true.
    """

    name: str
    title: str
    items: tuple[str, ...]
    env: tuple[str, ...]
    choices: dict[str, str]


@dataclass(frozen=True)
class Catalogue:
    families: dict[str, Family]
    files: dict[str, ModelFile]
    variants: dict[str, Variant]
    profiles: dict[str, Profile]

    def variants_for(self, loader: str) -> list[Variant]:
        """The variants that the node `loader` loads, in catalogue order."""
        return [variant for variant in self.variants.values() if self.families[variant.family].loader == loader]


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The shipped catalogue, read once."""
    return read(DATA / "families", DATA / "profiles.toml")


def read(families: Path, profiles: Path) -> Catalogue:
    """Reads a folder of family files and a profiles file.

    Raises ValueError whose text begins with file and line.
    """
    book = Catalogue({}, {}, {}, {})
    documents = [Document(path) for path in sorted(families.glob("*.toml"))]
    for document in documents:
        read_family(document, book)
    for document in documents:
        read_variants(document, book)
    read_profiles(Document(profiles), book)
    return book


def read_family(document: "Document", book: Catalogue) -> None:
    table = Table(document, (), document.data)
    family = Family(
        id=table.text("id"),
        title=table.text("title"),
        loader=table.text("loader", ""),
        clip_type=table.text("clip_type", ""),
    )
    if family.id in book.families:
        table.wrong("id", f"the family '{family.id}' is already in another file")
    book.families[family.id] = family
    licence = table.text("licence")
    table.known("id", "title", "loader", "clip_type", "licence", "files", "variants")
    for entry in table.tables("files"):
        entry.known(*ModelFile.__dataclass_fields__)
        file = ModelFile(
            id=entry.name,
            family=family.id,
            role=entry.text("role", choices=ROLES),
            folder=entry.text("folder"),
            name=entry.text("name", ""),
            format=entry.text("format", choices=FORMATS),
            licence=entry.text("licence", licence),
            confirmed=entry.text("confirmed"),
            sources=tuple(read_source(entry, source) for source in entry.list("sources")),
            bytes=entry.number("bytes", int, None),
            sha256=entry.text("sha256", ""),
            gb=float(entry.number("gb", (int, float), 0.0)),
            full_precision=entry.flag("full_precision"),
        )
        if not file.sources:
            entry.wrong("sources", "a file needs at least one source")
        if not file.name and not file.patterns:
            entry.wrong("name", "a name is needed unless a pattern finds it")
        for field in ("folder", "name"):
            if Path(getattr(file, field)).is_absolute() or ".." in Path(getattr(file, field)).parts:
                entry.wrong(field, "must stay inside the models folder")
        if file.sha256 and not re.fullmatch("[0-9a-f]{8,64}", file.sha256):
            entry.wrong("sha256", "must be 8 to 64 lower-case hexadecimal digits")
        if file.confirmed == "listing" and any(source.kind == "hub" for source in file.sources):
            entry.wrong("confirmed", "a name that nothing confirms must be a pattern, a snapshot or a version id")
        if file.id in book.files:
            entry.wrong(None, f"the file id '{file.id}' is already taken")
        book.files[file.id] = file


def read_source(entry: "Table", source: dict) -> Source:
    revision = source.get("revision", "main")
    keys = set(source) - {"revision"}
    if keys == {"hub", "path"}:
        return Source("hub", source["hub"], path=source["path"], revision=revision)
    if keys == {"hub", "patterns"}:
        return Source("pattern", source["hub"], patterns=tuple(source["patterns"]), revision=revision)
    if keys == {"hub"}:
        return Source("snapshot", source["hub"], revision=revision)
    if keys == {"url"} and source["url"].startswith(("https://", "http://127.0.0.1")):
        return Source("url", source["url"])
    if keys == {"civitai"}:
        return Source("civitai", str(source["civitai"]))
    entry.wrong("sources", "a source is {hub, path}, {hub, patterns}, {hub}, {url = 'https://…'} or {civitai}")


def read_variants(document: "Document", book: Catalogue) -> None:
    family = document.data["id"]
    for entry in Table(document, (), document.data).tables("variants"):
        entry.known("title", *PARTS)
        parts = {part: tuple(entry.list(part)) for part in PARTS}
        for part, ids in parts.items():
            for file in ids:
                if file not in book.files:
                    entry.wrong(part, f"there is no file '{file}'")
        # a family of several models, TurboDiffusion, writes its variants' ids out
        name = entry.name if "/" in entry.name else f"{family}/{entry.name}"
        variant = Variant(id=name, family=family, title=entry.text("title"), **parts)
        if not variant.files:
            entry.wrong(None, "a variant needs files")
        book.variants[variant.id] = variant


def read_profiles(document: "Document", book: Catalogue) -> None:
    for entry in Table(document, (), document.data).tables("profiles"):
        entry.known("title", "items", "env", "choices")
        profile = Profile(
            name=entry.name,
            title=entry.text("title"),
            items=tuple(entry.list("items")),
            env=tuple(entry.list("env")),
            choices=entry.data.get("choices", {}),
        )
        for item in profile.items:
            plain = item.format(**profile.choices)
            if plain not in book.variants and plain not in book.files and not plain.endswith("/auto"):
                entry.wrong("items", f"there is no variant or file '{plain}'")
        book.profiles[profile.name] = profile


class Document:
    """A parsed TOML file that still knows its lines."""

    def __init__(self, path: Path):
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        try:
            self.data = tomllib.loads(self.source)
        except tomllib.TOMLDecodeError as err:
            raise ValueError(f"{path.name}: {err}") from err

    def line(self, header: tuple[str, ...], key: str | None) -> int:
        """The line of `key` in the table `header`, else the header's own."""
        found, inside = 1, not header
        for number, line in enumerate(self.source.splitlines(), 1):
            if line.startswith("["):
                inside = re.findall(r'"([^"]+)"|([\w-]+)', line) == [
                    ("", part) if re.fullmatch(r"[\w-]+", part) else (part, "") for part in header
                ]
                found = number if inside else found
            elif inside and key and re.match(rf"{re.escape(key)}\s*=", line):
                return number
        return found


class Table:
    """A TOML table whose getters check what they return."""

    def __init__(self, document: Document, header: tuple[str, ...], data: dict, name: str = ""):
        self.document, self.header, self.data, self.name = document, header, data, name

    def wrong(self, key: str | None, why: str):
        where = f"{self.document.path.name}, line {self.document.line(self.header, key)}"
        raise ValueError(f"{where}: {f'{key}: ' if key else ''}{why}.")

    def known(self, *keys: str) -> None:
        for key in self.data:
            if key not in keys:
                self.wrong(key, f"is not a known field; known are {', '.join(keys)}")

    def text(self, key: str, default: str | None = None, choices: tuple[str, ...] = ()) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            self.wrong(key, "must be a text")
        if choices and value not in choices:
            self.wrong(key, f"'{value}' is not one of {', '.join(choices)}")
        return value

    def number(self, key: str, kind, default):
        value = self.data.get(key, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, kind) or value <= 0):
            self.wrong(key, "must be a number above 0")
        return value

    def flag(self, key: str) -> bool:
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            self.wrong(key, "must be true or false")
        return value

    def list(self, key: str) -> list:
        value = self.data.get(key, [])
        if not isinstance(value, list):
            self.wrong(key, "must be a list")
        return value

    def tables(self, key: str) -> "list[Table]":
        """The tables `[key.name]`; one with `each = […]` stands for several, its `{each}` replaced in every text."""
        found = []
        for name, data in self.data.get(key, {}).items():
            header = (*self.header, key, name)
            sizes = data.get("gb")
            for index, each in enumerate(data.get("each", [""])):
                entry = {field: fill(value, each) for field, value in data.items() if field != "each"}
                if isinstance(sizes, list):
                    entry["gb"] = sizes[index]
                found.append(Table(self.document, header, entry, fill(name, each)))
        return found


def fill(value, each: str):
    """`value` with `{each}` replaced in every text inside it."""
    if isinstance(value, str):
        return value.replace("{each}", each)
    if isinstance(value, list):
        return [fill(item, each) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, each) for key, item in value.items()}
    return value
