"""Which model files a workflow names: ComfyUI's graphs with their subgraphs, API prompts, and templates by name."""

import contextlib
import difflib
import fnmatch
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from ...catalog.catalog import ModelFile, Source, catalogue
from ...catalog.names import STEP_DISTILL, files_of, split
from . import hub
from .errors import DownloadError, printable
from .places import Places

EXAMPLES = Path(__file__).parents[2] / "example_workflows"
PACKAGE = "comfyui_workflow_templates_json"
HUBS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
CIVITAI = ("civitai.com", "www.civitai.com")
FORMATS = {".safetensors": "safetensors", ".sft": "safetensors", ".gguf": "gguf", ".onnx": "onnx"}
PICKLES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")
NOTES = ("Note", "MarkdownNote")
READS_POSES = ("SteadyDancerPoseEstimator", "SteadyDancerDancePoses", "SteadyDancerDanceReport")
OFF = (2, 4)  # a node's mode: muted, bypassed
NO_MODELS = ("custom_nodes", "configs")  # kinds of folders in ComfyUI that hold code or settings
LONGEST = 255  # characters of a file's name with its folders


@dataclass(frozen=True)
class Left:
    """A name that cannot be fetched, and why, in words that follow it. `folder` is empty where nothing says it."""

    name: str
    folder: str
    why: str


@dataclass
class Named:
    """`files`: what can be fetched, each once. `left`: what cannot. `off`: names that only muted or bypassed nodes hold."""

    files: list[ModelFile] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    off: list[str] = field(default_factory=list)


def read(path: Path) -> dict:
    """A workflow's JSON. Raises ValueError where the file is none."""
    try:
        graph = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError too
        raise ValueError(f"{path} is not JSON. Export the workflow once more from ComfyUI's menu.") from None
    if not isinstance(graph, dict) or not any(nodes_of(graph)):
        raise ValueError(f"{path} is not a workflow: it has no nodes. Export one from ComfyUI's menu.")
    return graph


def template(name: str) -> Path:
    """The file of a template of ours or of ComfyUI's. Raises ValueError for a name that is none's."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(root, "templates") for root in (spec and spec.submodule_search_locations or [])]
    known = {path.stem: path for folder in (*folders, EXAMPLES) for path in folder.glob("*.json")}
    name = name.removesuffix(".json")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    offer = f" Did you mean {' or '.join(near)}?" if near else ""
    if not spec:
        offer += (
            " ComfyUI's own are not installed in this Python: run this with ComfyUI's, or give the workflow's file."
        )
    raise ValueError(f"There is no template '{printable(name)}'.{offer}")


def named(graph: dict, automatic: Callable[[str], str]) -> Named:
    """The model files of a workflow.

    An address that is written in the graph counts where its host is one that we ask; else the catalogue, by the file's name.
    `automatic` gives the variant that `auto` in our own nodes means of a family. Nothing is read but the graph.
    """
    on, off = nodes_of(graph)
    entries = [entry for block in blocks_of(graph, on) for entry in addresses(block)]
    found: dict[str, ModelFile] = {}  # by where it goes, so that the catalogue's and the graph's are one
    left: dict[str, Left] = {}
    for folder, name, url in entries:
        try:
            file = linked_file(folder, name, url)
        except ValueError as err:
            left.setdefault(name, Left(name, folder if is_folder(folder) else "", str(err)))
            continue
        known = found.get(place(file))
        if known and known.sources != file.sources:
            file = replace(known, sources=tuple(dict.fromkeys((*known.sources, *file.sources))))
        found[place(file)] = file
    for file in files_of([item for node in on for item in our_items(node)], automatic):
        found[place(file)] = file
    with_address = {bare(name) for _, name, _ in entries}
    for name in held_names(on):
        if name in with_address:
            continue
        if ours := by_name(name):
            found[place(ours)] = ours
        else:
            why = "is named by a node, and neither the workflow nor the catalogue knows where it is"
            left[name] = Left(name, "", why)
    served = {name for file in found.values() for name in (bare(file.name), file.name)}
    asleep = {name for node in off for _, name, _ in addresses(models_of(node))} | set(held_names(off))
    return Named(
        list(found.values()),
        [entry for name, entry in left.items() if name not in served],
        sorted(map(printable, asleep - with_address - served - set(held_names(on)))),
    )


def place(file: ModelFile) -> str:
    """What a file is on the disk: two of one place are one."""
    return f"{file.folder}/{file.name or file.id}"


def still_left(left: list[Left], where: Places) -> list[Left]:
    """Those of the names that lie nowhere on this machine either."""

    def here(entry: Left) -> bool:
        name = bare(entry.name)
        roots = where.folders(entry.folder) if entry.folder else where.everywhere()
        return not set("*?[") & set(name) and any(where.names(root).find(name) for root in roots)

    return [entry for entry in left if not here(entry)]


# ---- the graph


def mapping(value: object) -> dict:
    """The value if it is an object of JSON, else an empty one: a graph may hold anything anywhere."""
    return value if isinstance(value, dict) else {}


def dicts(value: object) -> list[dict]:
    """The objects in a list of JSON; none where it is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def nodes_of(graph: dict) -> tuple[list[dict], list[dict]]:
    """The nodes that would run, those inside subgraphs and group nodes among them, and the muted and bypassed ones."""
    prompt = mapping(graph.get("prompt")) or graph
    called = {id: node for id, node in prompt.items() if isinstance(mapping(node).get("class_type"), str)}
    if called:  # an API prompt; its inputs stand for widgets
        return [{"type": node["class_type"], "widgets_values": node.get("inputs")} for node in called.values()], []
    inner = {str(inside.get("id")): inside for inside in dicts(mapping(graph.get("definitions")).get("subgraphs"))}
    for name, inside in mapping(mapping(graph.get("extra")).get("groupNodes")).items():
        inner |= {f"workflow>{name}": mapping(inside), f"workflow/{name}": mapping(inside)}
    on: list[dict] = []
    off: list[dict] = []
    opened = set()
    waiting = [(node, False) for node in dicts(graph.get("nodes"))]
    while waiting:
        node, asleep = waiting.pop(0)
        asleep = asleep or node.get("mode") in OFF
        (off if asleep else on).append(node)
        kind = str(node.get("type"))
        if kind in inner and (kind, asleep) not in opened:
            opened.add((kind, asleep))
            waiting += [(child, asleep) for child in dicts(inner[kind].get("nodes"))]
    return on, off


def models_of(node: dict) -> list[dict]:
    """What a node's properties say of its models."""
    return dicts(mapping(node.get("properties")).get("models"))


def blocks_of(graph: dict, nodes: list[dict]) -> Iterator[list[dict]]:
    """Every list of names with addresses: the nodes', and the graph's own."""
    yield from map(models_of, nodes)
    yield dicts(graph.get("models"))
    yield dicts(mapping(graph.get("extra")).get("models"))


def addresses(block: list[dict]) -> Iterator[tuple[str, str, str]]:
    """Folder, name and address of each entry that has all three."""
    for entry in block:
        texts = [text for key in ("directory", "name", "url") if isinstance(text := entry.get(key), str) and text]
        if len(texts) == 3:
            yield texts[0], texts[1], texts[2]


def texts_in(value: object) -> Iterator[str]:
    """The texts of a node's widgets, of which some are lists and objects."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def bare(name: str) -> str:
    """A file's name without its folders, as any system writes them."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def held_names(nodes: list[dict]) -> list[str]:
    """Names of model files, without their folders, that the nodes' widgets hold."""
    found = {}
    for node in nodes:
        for text in texts_in(node.get("widgets_values")) if node.get("type") not in NOTES else ():
            name = bare(text)
            if (
                text.lower().endswith((*FORMATS, *PICKLES))
                and len(text) <= LONGEST
                and text.isprintable()
                and "://" not in text
            ):
                found[name] = True
    return list(found)


def our_items(node: dict) -> list[str]:
    """What a node of this package would fetch when it runs: profiles, variants and files of the catalogue."""
    book, kind, values = catalogue(), str(node.get("type")), node.get("widgets_values")
    if not kind.startswith("SteadyDancer"):
        return []
    texts = list(texts_in(values))
    if kind == "SteadyDancerDownload":
        known = {*book.profiles, *book.variants, *book.files}
        return [name for text in texts for name in split(text) if name in known or name.endswith("/auto")]
    items = [text for text in texts if text in book.variants or text in book.files]
    if kind == "SteadyDancerVariantSelector":
        items += [f"{text}/auto" for text in texts if text in book.families]
    linked = {slot.get("name") for slot in dicts(node.get("inputs")) if slot.get("link") is not None}
    linked |= {name for name, value in mapping(values).items() if isinstance(value, list)}  # of an API prompt
    if kind in ("SteadyDancerLoader", "SteadyDancerVRAMPlanner") and "auto" in texts and "variant" not in linked:
        items.append("steadydancer/auto")
    switched = "step_distill" in linked  # it may be wanted at any run
    held = mapping(values).values() or values or ()
    if kind == "SteadyDancerLoader" and (switched or any(value is True for value in held)):  # 1 is a strength
        items.append(STEP_DISTILL)
    return [*items, "dwpose/onnx"] if kind in READS_POSES else items


# ---- from a name and an address to a file of the catalogue's kind


def by_name(name: str, folder: str = "") -> ModelFile | None:
    """The catalogue's file of a name, in a folder if one is given."""
    for file in catalogue().files.values():
        names = (PurePosixPath(pattern).name for pattern in file.patterns)
        if file.format != "folder" and folder in ("", file.folder):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in names):
                return file
    return None


def linked_file(folder: str, name: str, url: str) -> ModelFile:
    """The file that an entry of a graph means: the catalogue's, which knows more of it, or one made of the entry.

    Raises ValueError, in words that follow the name, for a folder, name or address that is not accepted.
    A hash in the graph is not used: it is as foreign as the address, and must not condemn a file that is here.
    """
    if not is_folder(folder):
        raise ValueError(f"is meant for '{printable(folder)}', which is no folder of models")
    require_plain(name)
    known = by_name(bare(name), folder)
    try:
        source = source_of(url)
    except ValueError:
        if known:
            return known
        raise
    if known and source in known.sources:
        return known
    ending = PurePosixPath(name).suffix.lower()
    if ending in PICKLES:
        raise ValueError(f"is a {ending} file, which can run code when it is read. Place it by hand if you trust it")
    if ending not in FORMATS:
        raise ValueError("is not a model file")
    return ModelFile(
        f"{folder}/{name}",
        folder=folder,
        name=name,
        format=FORMATS[ending],
        sources=(source,),
        bytes=None,
        gb=0.0,
        family="",
        role="",
        licence="",
        confirmed="the workflow",
        sha256="",
    )


def is_folder(folder: str) -> bool:
    """Whether a graph may name it: a folder below the models folder that holds models."""
    parts = folder.split("/")
    return all(re.fullmatch(r"\w[\w.-]*", part, re.ASCII) for part in parts) and parts[0].lower() not in NO_MODELS


def require_plain(name: str) -> None:
    """Raises ValueError for a name that leads out of its folder or that some system cannot store."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise ValueError("leads out of the models folder and is not fetched")
    with contextlib.suppress(DownloadError):
        hub.checked_name(name)
        if not re.search(r'[<>:"|?*]', name) and path.as_posix() == name and len(name) <= LONGEST:
            return
    raise ValueError("is a name that no file should have")


def source_of(url: str) -> Source:
    """Where an address leads: a file of the Hub's, or a version of CivitAI's. Raises ValueError for every other one."""
    shown = printable(re.sub("//[^/]*@", "//", url.split("?")[0]))  # no password
    refused = ValueError(
        f"is at '{shown}', which is no file of huggingface.co or civitai.com. Place it by hand if you trust it"
    )
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise refused from None
    endpoint = urlsplit(hub.endpoint())
    at_endpoint = (parts.scheme, parts.netloc) == (endpoint.scheme, endpoint.netloc)
    if not at_endpoint and (parts.scheme != "https" or port not in (None, 443) or "@" in parts.netloc):
        raise refused
    if at_endpoint or host in HUBS:
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/(?:resolve|blob|raw)/([^/]+)/(.+)", parts.path)
        path = unquote(found[3]) if found else ""
        if not found or ".." in (*found[1].split("/"), *path.split("/")):
            raise refused
        return Source("hub", found[1], path, revision=unquote(found[2]))
    version = re.fullmatch(r"/api/download/models/(\d{1,12})", parts.path) or re.fullmatch(
        r"(\d{1,12})", parse_qs(parts.query).get("modelVersionId", [""])[0], re.ASCII
    )
    if host in CIVITAI and version:
        return Source("civitai", version[1])
    raise refused
