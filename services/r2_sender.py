"""What the R2 nodes share: the profile, the journal, and one upload with its facts and its text."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.cli_args import args

from ..base.plain import one_line
from ..base.progress import size
from ..base.reason import reason
from ..bucket import day_facts, keys, profiles
from ..bucket.client import Bucket, StorageError
from ..bucket.journal import FILE, Journal
from ..bucket.profiles import Profile
from ..bucket.upload import deliver
from . import folders
from .progress import cancelled, executing, interruptible, say, stop
from .web_server import show, web_server

NO_PROFILE = "kept on this machine only, no save profile is set up"


def config() -> Path:
    """Where the profile file is: STEADYDANCER_R2_CONFIG, else in ComfyUI's user folder."""
    return profiles.config_file(folders.state(profiles.FILE))


def check_profile(name: str | None) -> bool | str:
    """For a node's validation: True, or what is wrong with the profile that a workflow names. None: another node says."""
    try:
        profiles.find(name or profiles.AUTO, config())
    except (OSError, ValueError) as err:
        return reason(err)
    return True


@functools.cache
def journal() -> Journal:
    """The one journal of this server. It is shared with the folder watch and with cli.py."""
    return Journal(folders.state(FILE))


@functools.lru_cache(maxsize=4)
def bucket_of(profile: Profile) -> Bucket:
    """The connection of a profile, kept between prompts."""
    return Bucket(profile)


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Holds the journal's claim on a file, waiting for it as long as the user does."""
    while True:
        with journal().claim(path, wait=0.3) as ours:
            if ours:
                yield
                return
        stop()


def output_folder() -> Path:
    """ComfyUI's output folder, links resolved."""
    return Path(folder_paths.get_output_directory()).resolve()


def graph_tags(hidden: Any, share_safe: bool) -> dict[str, object]:
    """The tags that bring the graph back; a prompt queued without a page has no workflow."""
    if share_safe or args.disable_metadata:
        return {}
    tags = dict(hidden.extra_pnginfo) if isinstance(hidden.extra_pnginfo, dict) else {}
    if hidden.prompt is not None:
        tags["prompt"] = hidden.prompt
    return tags


@dataclass(frozen=True)
class Sent:
    """What became of one file, and the text under the node that says so."""

    path: Path
    text: str
    key: str = ""  # empty: it was kept on this machine only
    url: str = ""
    size: int = 0  # bytes
    sha256: str = ""
    bucket: Bucket | None = None


@dataclass(frozen=True)
class Sender:
    """Sends the files of one execution of a node, as its inputs say."""

    hidden: Any  # the node's unique_id, prompt and extra_pnginfo
    profile: str
    key: str
    overwrite: bool
    link_minutes: int
    share_safe: bool = False
    day_facts: bool = False
    prompt_id: str = field(default_factory=lambda: executing().prompt_id)

    def send(
        self, path: Path, progress: Callable[[int, int], None] | None = None, cancelled: Callable[[], bool] = cancelled
    ) -> Sent:
        """Uploads one file of the output folder. A failure says that the file is kept, where, and how to go on."""
        name = one_line(path.relative_to(output_folder()).as_posix())
        try:
            profile = profiles.find(self.profile, config())
            if profile is None:
                return Sent(path, f"{one_line(name)}: {NO_PROFILE}")
            bucket = bucket_of(profile)
            key = keys.fill(self.key, self._tokens(profile, path))
            uploaded = deliver(bucket, path, key, journal(), self.overwrite, progress, cancelled)
        except (StorageError, ValueError, OSError) as err:
            raise StorageError(
                f"{reason(err)} The result is safe in the output folder: {one_line(name)}. Send it later with the node Upload File to R2."
            ) from err
        url = profile.url(uploaded.key)
        how = "was there already" if uploaded.was_there else size(uploaded.size)
        text = f"{one_line(name)} → {url}, {how}"
        return Sent(path, text, uploaded.key, url, uploaded.size, uploaded.sha256, bucket)

    def finish(self, results: list[Sent], **facts: Any) -> dict[str, Any]:
        """Notes the facts if asked to, and says under the node where everything is. Returns what the page and history get:
        the text, and for programs an entry an object, `r2`."""
        node_id, first = self.hidden.unique_id, results[0]
        text = first.text if len(results) == 1 else f"{len(results)} files: {first.text} …"
        if self.day_facts and first.bucket:
            facts |= self._job_facts()
            try:
                with interruptible():
                    day_facts.add(first.bucket, {sent.key: facts for sent in results}, cancelled)
            except StorageError as err:  # the result itself is in the bucket
                text += f" (without its facts. {err})"
        say(node_id, text)
        if self.link_minutes and first.bucket:
            # Neither logged nor part of the result, and for this page alone: whoever has it can open the object.
            page = getattr(web_server(), "client_id", None)
            if page is None:  # to ComfyUI that means: to every page
                say(node_id, f"{text}\nNo link is shown: the prompt was queued without a page.")
            else:
                link = first.bucket.link(first.key, 60 * self.link_minutes)
                show(f"{text}\n{self.link_minutes} min: {link}", node_id, page)
        entries = [
            {"key": sent.key, "url": sent.url, "bytes": sent.size, "sha256": sent.sha256}
            for sent in results
            if sent.key
        ]
        return {"text": (text,), "r2": entries}

    def _tokens(self, profile: Profile, path: Path) -> dict[str, object]:
        prompt, node_id = self.hidden.prompt or {}, self.hidden.unique_id
        folder = path.parent.relative_to(output_folder()).as_posix()
        return {
            "prefix": profile.prefix,
            **keys.file_times(path.stat().st_mtime),
            **keys.file_names(path.name, "" if folder == "." else folder),
            "seed": day_facts.facts_of_graph(prompt, node_id).get("seed", ""),
            "prompt_id": self.prompt_id,
            "title": prompt.get(node_id, {}).get("_meta", {}).get("title", ""),
        }

    def _job_facts(self) -> dict[str, object]:
        facts = day_facts.facts_of_graph(self.hidden.prompt or {}, self.hidden.unique_id)
        if self.share_safe or args.disable_metadata:
            facts.pop("prompt", None)
        started = prompt_started(self.prompt_id)
        if started:
            facts["seconds"] = round(time.time() - started, 1)
        if comfy.model_management.get_torch_device().type == "cuda":
            facts["peak_vram_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
        return facts


def prompt_started(prompt_id: str) -> float | None:
    """When the running prompt began, seconds since 1970: when it was queued or the one before it ended.

    None without a web server, which has the queue.
    """
    queue = getattr(web_server(), "prompt_queue", None)
    if queue is None:
        return None
    begun = [item[3]["create_time"] for item in queue.get_current_queue_volatile()[0] if item[1] == prompt_id]
    for before in queue.get_history(max_items=1).values():
        begun += [data["timestamp"] for _, data in before["status"]["messages"]]
    return max(begun) / 1000
