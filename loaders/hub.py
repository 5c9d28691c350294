"""What a publisher says about a file before its bytes are fetched: size, hash, version, address."""

import difflib
import fnmatch
import logging
import threading
import time
from collections.abc import Callable

from .. import environment
from ..catalog.catalog import ModelFile, Source
from .errors import NO_SUCH_NAME, DownloadCancelled, DownloadError, plain, refusal
from .transfer import RETRIED, Cancelled, Patience, Remote, authorisation

HUB = "https://huggingface.co"
CIVITAI = "https://civitai.com"


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or the public one."""
    return environment.text("HF_ENDPOINT", HUB).rstrip("/")


def offline() -> bool:
    """Whether the user forbade the network."""
    return environment.flag("HF_HUB_OFFLINE")


def page(source: Source) -> str:
    """The address that a person opens to see or fetch the source's files."""
    if source.kind == "url":
        return source.where
    if source.kind == "civitai":
        return f"{CIVITAI}/api/download/models/{source.where}"
    if source.kind == "hub":
        return f"{endpoint()}/{source.where}/resolve/{source.revision}/{source.path}"
    return f"{endpoint()}/{source.where}/tree/{source.revision}"


def resolve(file: ModelFile, source: Source, patience: Patience, cancelled: Cancelled) -> list[Remote]:
    """Asks the publisher. One remote, or all of a snapshot's with `name` relative to its folder.

    Raises DownloadError with what to do, or DownloadCancelled.
    """
    ask = {"hub": hub_file, "pattern": hub_match, "snapshot": hub_all, "url": plain_url, "civitai": civitai_version}
    return waited(
        lambda: repeated(lambda: ask[source.kind](file, source, patience), file, patience, cancelled), cancelled
    )


def waited(work: Callable, cancelled: Cancelled):
    """The result of `work`, which may block in a library, or DownloadCancelled at once when the user stops it."""
    box: dict = {}

    def run():
        try:
            box["result"] = work()
        except BaseException as err:  # handed to the waiting thread
            box["error"] = err

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if cancelled():
            raise DownloadCancelled
    if "error" in box:
        raise box["error"]
    return box["result"]


def repeated(work: Callable, file: ModelFile, patience: Patience, cancelled: Cancelled):
    """The result of `work`, repeated while the network or an overloaded server is to blame."""
    failures = 0
    while True:
        try:
            return work()
        except DownloadError:
            raise
        except Exception as err:  # huggingface_hub changed its HTTP library twice: no common type is left
            response = getattr(err, "response", None)
            status = getattr(response, "status_code", None)
            failures += 1
            if status is not None and status not in RETRIED:
                raise DownloadError(refusal(status, page(file.sources[0]), file.name or file.id)) from None
            reason = f"the server answered {status}" if status else plain(err)
            attempts = min(2, patience.attempts) if reason == NO_SUCH_NAME else patience.attempts
            if failures >= attempts or cancelled():
                raise DownloadError(
                    f"{file.name or file.id} cannot be downloaded: {reason}, {failures} times in a row. Check the network "
                    f"and run again, or put it into models/{file.folder} by hand, from {page(file.sources[0])}."
                ) from None  # its text may hold a signed address
            delay = patience.delay(failures, response.headers.get("Retry-After") if status else None)
            logging.info("%s: %s, asking again in %.1f s", file.name or file.id, reason, delay)
            until = time.monotonic() + delay
            while time.monotonic() < until and not cancelled():
                time.sleep(0.1)


def hub_file(file: ModelFile, source: Source, patience: Patience) -> list[Remote]:
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    token = get_token() or ""
    url = hf_hub_url(source.where, source.path, revision=source.revision, endpoint=endpoint())
    try:
        with hub_errors(file, source):
            found = get_hf_file_metadata(url, token=token or False, timeout=patience.timeout)
    except EntryNotFoundError as err:
        raise DownloadError(not_there(source, source.path, [entry.path for entry in listing(file, source)])) from err
    pinned = hf_hub_url(source.where, source.path, revision=found.commit_hash or source.revision, endpoint=endpoint())
    etag = found.etag or ""
    sha256 = etag if len(etag) == 64 else ""  # a file outside large-file storage has a git hash instead
    return [Remote(pinned, source.path.rsplit("/", 1)[-1], found.size, sha256, etag, token=token)]


def hub_match(file: ModelFile, source: Source, patience: Patience) -> list[Remote]:
    entries = listing(file, source)
    for pattern in source.patterns:
        names = sorted(entry.path for entry in entries if fnmatch.fnmatchcase(entry.path, pattern))
        if names:
            return [hub_entry(source, next(entry for entry in entries if entry.path == names[0]))]
    raise DownloadError(not_there(source, source.patterns[0], [entry.path for entry in entries]))


def hub_all(file: ModelFile, source: Source, patience: Patience) -> list[Remote]:
    return [hub_entry(source, entry, entry.path) for entry in listing(file, source) if entry.path != ".gitattributes"]


def hub_entry(source: Source, entry, name: str = "") -> Remote:
    from huggingface_hub import get_token, hf_hub_url

    url = hf_hub_url(source.where, entry.path, revision=source.revision, endpoint=endpoint())
    sha256 = entry.lfs.sha256 if entry.lfs else ""
    name = name or entry.path.rsplit("/", 1)[-1]
    return Remote(url, name, entry.size, sha256, entry.blob_id, token=get_token() or "")


def listing(file: ModelFile, source: Source) -> list:
    """The files of a Hub repository with size and hash."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.hf_api import RepoFile

    with hub_errors(file, source):
        tree = HfApi(endpoint=endpoint(), token=get_token() or False).list_repo_tree(
            source.where, recursive=True, revision=source.revision
        )
        return [entry for entry in tree if isinstance(entry, RepoFile)]


class hub_errors:
    """Turns the Hub's refusals into sentences; leaves network errors for `repeated`."""

    def __init__(self, file: ModelFile, source: Source):
        self.file, self.source = file, source

    def __enter__(self):
        return self

    def __exit__(self, kind, err, trace):
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        name, repository = self.file.name or self.file.id, self.source.where
        if isinstance(err, GatedRepoError):
            raise DownloadError(
                f"{name} is not open to everybody: its licence must be accepted once. Open {endpoint()}/{repository}, "
                "accept it, then set HF_TOKEN or run `hf auth login` on the machine that runs ComfyUI."
            ) from err
        if isinstance(err, RepositoryNotFoundError):
            raise DownloadError(
                f"{name} cannot be fetched: the repository {repository} does not exist or is private. "
                "Set HF_TOKEN if you may see it, or place the file by hand."
            ) from err
        if isinstance(err, RevisionNotFoundError):
            raise DownloadError(
                f"{name} cannot be fetched: {repository} has no version {self.source.revision}. Update SteadyDancer."
            ) from err


def not_there(source: Source, wanted: str, offered: list[str]) -> str:
    """A name that is not in a repository, and the names that are most like it."""
    weights = [name for name in offered if name.endswith((".safetensors", ".gguf", ".pth", ".onnx", ".pt"))]
    near = difflib.get_close_matches(wanted, weights, n=5, cutoff=0.3) or weights[:5]
    offer = f"It offers {', '.join(near)}." if near else "It has no weights at all."
    return f"{source.where} has no file {wanted}. {offer} Choose one of these variants, or update SteadyDancer."


def plain_url(file: ModelFile, source: Source, patience: Patience) -> list[Remote]:
    return [probe(Remote(source.where, file.name), patience)]


def probe(remote: Remote, patience: Patience) -> Remote:
    """Asks a server for a file's first byte: its size, its version, and whether it sends parts."""
    import requests

    headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    auth = authorisation(remote.token)
    with requests.get(remote.url, headers=headers, auth=auth, stream=True, timeout=patience.timeout) as response:
        if response.status_code in RETRIED:
            raise requests.HTTPError(f"the server answered {response.status_code}", response=response)
        if response.status_code not in (200, 206):
            raise DownloadError(refusal(response.status_code, remote.url, remote.name))
        etag = response.headers.get("ETag", response.headers.get("Last-Modified", ""))
        if response.status_code == 206:
            size = int(response.headers["Content-Range"].rsplit("/", 1)[-1])
        else:
            size = int(response.headers.get("Content-Length", 0)) or None
        ranges = response.status_code == 206
        return Remote(remote.url, remote.name, size, remote.sha256, etag, ranges, remote.token)


def civitai_version(file: ModelFile, source: Source, patience: Patience) -> list[Remote]:
    import requests

    token = environment.text("CIVITAI_API_KEY")
    url = f"{CIVITAI}/api/v1/model-versions/{source.where}"
    response = requests.get(url, auth=authorisation(token), timeout=patience.timeout)
    if response.status_code in RETRIED:
        response.raise_for_status()
    if response.status_code != 200:
        raise DownloadError(refusal(response.status_code, url, file.name))
    files = response.json()["files"]
    chosen = next((entry for entry in files if entry.get("primary")), files[0])
    sha256 = chosen.get("hashes", {}).get("SHA256", "").lower()
    return [
        probe(Remote(f"{CIVITAI}/api/download/models/{source.where}", file.name, sha256=sha256, token=token), patience)
    ]
