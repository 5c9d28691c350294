"""What a publisher says about a file before its bytes are fetched: size, hash, version, address."""

import contextlib
import difflib
import fnmatch
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from ...base import environment
from ...base.cancel import IsCancelled, pause, run_cancellable
from ...base.retry import RetryPolicy, TransientError
from ...catalog.catalog import ModelFile, Source
from .errors import NO_SUCH_NAME, DownloadError, NotThere, bad_token, come_back, in_a_row, printable, refusal
from .hub_token import Token, civitai_token, hub_token
from .places import RECORD
from .transfer import Remote
from .transfer_request import host, origin, send, told, validator, web_page

if TYPE_CHECKING:  # a laptop without it can still list and plan
    import requests

HUB = "https://huggingface.co"
CIVITAI = "https://civitai.com"
LISTING = 64 << 20  # bytes of a listing's page: far more than a repository has, far less than memory
PAGES = 1000
NAME = 200  # bytes of a file's name: a volume takes 255, and our own files add their endings
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)( *\..*)?", re.IGNORECASE)  # Windows' devices

log = logging.getLogger(__name__)


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or the public one."""
    return environment.text("HF_ENDPOINT", HUB).rstrip("/")


def checked_endpoint() -> str:
    """The Hub's address. Raises DownloadError where HF_ENDPOINT is none."""
    address = endpoint()
    try:
        parts = urlsplit(address)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # a port that is no number, half a bracket
        whole = False
    if not whole or re.search(r"[\s?#]", address):
        shown = printable(address.rpartition("@")[2])
        raise DownloadError(
            f"HF_ENDPOINT is '{shown}', which is not an address of a server. Write it with https:// in front and without "
            "a name or password, like https://hf-mirror.com, or unset it."
        )
    return address


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


def like(file: ModelFile) -> str:
    """A file that the catalogue knows by patterns only, the plainest of which is the last."""
    return f"a file named like {file.patterns[-1].replace('[_.]', '_')}"


def resolve(file: ModelFile, source: Source, retries: RetryPolicy, cancelled: IsCancelled) -> list[Remote]:
    """Asks the publisher. One remote, or all of a snapshot's with `name` relative to its folder.

    Raises DownloadError with what to do, or Cancelled.
    """
    ask = {"hub": hub_file, "pattern": hub_match, "snapshot": hub_all, "url": plain_url, "civitai": civitai_version}
    name = file.name or file.id

    def gave_up(err: TransientError, failures: int, delay: float) -> DownloadError:
        return come_back(delay) or DownloadError(
            f"{name} cannot be downloaded: {err}{in_a_row(failures)}. Check the network and run again, "
            f"or put {'it' if file.name else like(file)} into models/{file.folder} by hand, from {page(source)}."
        )

    def wait(delay: float, err: TransientError) -> None:
        log.info("%s: %s, asking again in %.1f s", name, err, delay)
        pause(delay, cancelled)

    def attempts(err: TransientError) -> int:
        return min(2, retries.attempts) if str(err) == NO_SUCH_NAME else retries.attempts

    def work() -> list[Remote]:
        return retries.run(lambda: ask[source.kind](file, source, retries), gave_up, wait, attempts=attempts)

    return run_cancellable(work, cancelled)


@contextlib.contextmanager
def answer(
    url: str, name: str, token: Token, retries: RetryPolicy, method: str = "GET", **headers: str
) -> Iterator[tuple]:
    """A publisher's answer, and the token that it took: none where it refuses ours but shows the file to everybody.

    Raises TransientError or DownloadError; a status that is an answer of the publisher's is left to the caller.
    """
    import requests

    def ask(value: str) -> "requests.Response":
        return send(session, method, url, name, value, headers, retries.timeout)

    with requests.Session() as session, contextlib.ExitStack() as open_ones:
        response = open_ones.enter_context(ask(token.value))
        if token.value and response.status_code in (401, 403) and response.headers.get("X-Error-Code") != "GatedRepo":
            refused = bad_token(token.origin, host(url), name)
            response = open_ones.enter_context(ask(""))
            if response.headers.get("X-Error-Code") == "GatedRepo":
                raise DownloadError(f"{refused} The file's licence must be accepted once, too, on its page.")
            if not response.ok:
                raise DownloadError(f"{refused} Without a token it answers {response.status_code}.")
            log.warning("%s It is open to everybody and is fetched without it.", refused)
            token = Token()
        yield response, token


def hub_file(file: ModelFile, source: Source, retries: RetryPolicy) -> list[Remote]:
    """A file of a repository, by its path: what a HEAD request says of it, pinned to the commit that answered."""
    name = source.path.rsplit("/", 1)[-1]
    url = hub_url(source, source.path)
    with answer(url, name, hub_token(), retries, "HEAD") as (response, token):
        if response.headers.get("X-Error-Code") == "EntryNotFound":
            offered = [entry["path"] for entry in listing(file, source, retries)[0]]
            raise NotThere(not_there(source, source.path, offered))
        check_hub(response, file, source, token)
        headers = response.headers
    etag = headers.get("X-Linked-Etag", headers.get("ETag", "")).removeprefix("W/").strip('"')
    linked = described_size(
        headers.get("X-Linked-Size", "" if response.is_redirect else headers.get("Content-Length", ""))
    )
    commit = headers.get("X-Repo-Commit", "")
    pinned = hub_url(source, source.path, commit if re.fullmatch("[0-9a-f]{40}", commit) else source.revision)
    # a file outside large-file storage has a git hash in place of a sha256
    return [Remote(pinned, name, linked, sha256_or_none(etag), etag, token=token.value, token_origin=token.origin)]


def hub_match(file: ModelFile, source: Source, retries: RetryPolicy) -> list[Remote]:
    """The first file of the repository's listing that one of the source's patterns matches, in their order."""
    entries, token = listing(file, source, retries)
    for pattern in source.patterns:
        matching = sorted(
            (entry for entry in entries if fnmatch.fnmatchcase(entry["path"], pattern)), key=lambda entry: entry["path"]
        )
        if matching:
            return [hub_entry(source, matching[0], token, matching[0]["path"].rsplit("/", 1)[-1])]
    raise NotThere(not_there(source, source.patterns[0], [entry["path"] for entry in entries]))


def hub_all(file: ModelFile, source: Source, retries: RetryPolicy) -> list[Remote]:
    """All files of a repository, but for its settings and for records of checks."""
    entries, token = listing(file, source, retries)
    # a record says what this machine has checked: nobody else can publish it
    files = [entry for entry in entries if RECORD not in entry["path"].lower().split("/")]
    return [hub_entry(source, entry, token, entry["path"]) for entry in files if entry["path"] != ".gitattributes"]


def hub_entry(source: Source, entry: dict, token: Token, name: str) -> Remote:
    """An entry of a listing. Raises DownloadError for a name that no file should have."""
    checked_name(entry["path"])
    sha256 = sha256_or_none(entry["lfs"].get("oid")) if isinstance(entry.get("lfs"), dict) else ""
    size, etag = described_size(entry.get("size")), str(entry.get("oid", ""))
    return Remote(
        hub_url(source, entry["path"]), name, size, sha256, etag, token=token.value, token_origin=token.origin
    )


def hub_url(source: Source, path: str, revision: str = "") -> str:
    """Where the Hub gives out a file of a repository; `revision` is a branch or commit, the source's own if empty."""
    return f"{checked_endpoint()}/{source.where}/resolve/{quote(revision or source.revision, safe='')}/{quote(path)}"


def listing(file: ModelFile, source: Source, retries: RetryPolicy) -> tuple[list[dict], Token]:
    """The files of a Hub repository, `path`, `size`, `oid` and `lfs` of each, and the token that the Hub took."""
    name, token, entries = file.name or file.id, hub_token(), []
    home = checked_endpoint()
    url = f"{home}/api/models/{source.where}/tree/{quote(source.revision, safe='')}?recursive=true&expand=false"
    for _ in range(PAGES):
        with answer(url, name, token, retries) as (response, token):
            check_hub(response, file, source, token)
            entries += [entry for entry in json_of(response, name, list) if is_file(entry)]
            following = response.links.get("next", {}).get("url", "")
        if not following:
            return entries, token
        url = urljoin(url, following)
        if origin(url) != origin(home):
            raise DownloadError(f"{name} cannot be downloaded: the listing of {host(home)} goes on at another server.")
    raise DownloadError(f"{name} cannot be downloaded: the listing of {source.where} has no end.")


def is_file(entry: object) -> bool:
    """Whether an entry of the Hub's listing is a file as it describes files."""
    return isinstance(entry, dict) and entry.get("type") == "file" and isinstance(entry.get("path"), str)


def check_hub(response: "requests.Response", file: ModelFile, source: Source, token: Token) -> None:
    """Turns the Hub's refusals into sentences."""
    name, repository, code = file.name or file.id, source.where, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        do = (
            f"accept it with the account of the token in {token.origin}. A fine-grained token also needs the right to "
            "read gated repositories."
            if token.value
            else "accept it, then set HF_TOKEN or run `hf auth login` on the machine that runs ComfyUI."
        )
        raise DownloadError(
            f"{name} is not open to everybody: its licence must be accepted once. Open {endpoint()}/{repository}, {do}"
        )
    if code == "RepoNotFound" or (response.status_code == 401 and not token.value):
        raise NotThere(
            f"{name} cannot be fetched: the repository {repository} does not exist or is private. "
            "Set HF_TOKEN if you may see it, or place the file by hand."
        )
    if code == "RevisionNotFound":
        raise DownloadError(
            f"{name} cannot be fetched: {repository} has no version {source.revision}. "
            "Update SteadyDancer or the workflow that names it."
        )
    if not response.ok:
        raise DownloadError(refusal(response.status_code, response.url, name))


def json_of(response: "requests.Response", name: str, kind: type) -> Any:
    """The JSON of an answer, of a bounded length. Raises DownloadError where it is none or another `kind` of it."""
    body = bytearray()
    with told(response.url, name):
        for block in response.iter_content(1 << 16):
            body += block
            if len(body) > LISTING:
                break
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(body) if len(body) <= LISTING else None
        if isinstance(found, kind):
            return found
    if body.lstrip()[:1] == b"<":
        raise DownloadError(web_page(name, response.url))
    raise DownloadError(
        f"{name} cannot be downloaded: the answer of {host(response.url)} is not what such a server sends. "
        "Check HF_ENDPOINT, or try again later."
    )


def checked_name(name: str) -> None:
    """Raises DownloadError for a listed name that some system cannot store, or that fools whoever reads it."""
    for part in name.split("/"):
        odd = any(unicodedata.category(letter).startswith("C") for letter in part) or "\\" in part
        foreign = os.name == "nt" and re.search(r'[<>:"|?*]', part)
        if odd or foreign or part.endswith((" ", ".")) or RESERVED.fullmatch(part) or len(os.fsencode(part)) > NAME:
            raise DownloadError(
                f"'{printable(name)}' cannot be fetched: no file should have such a name. Place the file by hand "
                "under another one."
            )


def described_size(size: object) -> int | None:
    """A size as a server states it, in bytes; None where it is no size."""
    text = str(size)
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def sha256_or_none(text: object) -> str:
    """A published SHA-256 in small letters, empty where the text is none."""
    return text.lower() if isinstance(text, str) and re.fullmatch("[0-9a-fA-F]{64}", text) else ""


def not_there(source: Source, wanted: str, offered: list[str]) -> str:
    """A name that is not in a repository, and the names that are most like it."""
    weights = [name for name in offered if name.endswith((".safetensors", ".gguf", ".pth", ".onnx", ".pt"))]
    near = difflib.get_close_matches(wanted, weights, n=5, cutoff=0.3) or weights[:5]
    offer = f"It offers {', '.join(map(printable, near))}." if near else "It has no weights at all."
    return f"{source.where} has no file {wanted}. {offer} Choose one of these, or update SteadyDancer or the workflow."


def plain_url(file: ModelFile, source: Source, retries: RetryPolicy) -> list[Remote]:
    """A file by its address, as its server describes it."""
    return [probe(Remote(source.where, file.name), Token(), retries)]


def probe(remote: Remote, token: Token, retries: RetryPolicy) -> Remote:
    """Asks a server for a file's first byte: its size, its version, and whether it sends parts."""
    with answer(remote.url, remote.name, token, retries, Range="bytes=0-0") as (response, token):
        status, headers = response.status_code, response.headers
        span = re.fullmatch(r"bytes (?:0-0|\*)/(\d{1,18})", headers.get("Content-Range", ""), re.ASCII)
        if status not in (200, 206) and not (
            status == 416 and span and span[1] == "0"
        ):  # an empty file has no first byte
            raise DownloadError(refusal(status, response.url if status < 400 else remote.url, remote.name))
        # without hash and version, parts could be of two versions and nobody would know: it is asked for the whole
        ranges = status == 206 and span is not None and bool(remote.sha256 or validator(response))
        size = int(span[1]) if span else described_size(headers.get("Content-Length") if status == 200 else None)
        return Remote(
            remote.url, remote.name, size, remote.sha256, validator(response), ranges, token.value, token.origin
        )


def civitai_version(file: ModelFile, source: Source, retries: RetryPolicy) -> list[Remote]:
    """The main file of a Civitai version, with the SHA-256 that Civitai publishes."""
    url = f"{CIVITAI}/api/v1/model-versions/{source.where}"
    with answer(url, file.name, civitai_token(), retries) as (response, token):
        if response.status_code != 200:
            raise DownloadError(refusal(response.status_code, url, file.name))
        files = json_of(response, file.name, dict).get("files")
    files = [entry for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
    if not files:
        raise DownloadError(f"{file.name} cannot be downloaded: {host(url)} lists no file of this version any more.")
    chosen = next((entry for entry in files if entry.get("primary")), files[0])
    hashes = chosen.get("hashes")
    sha256 = sha256_or_none(hashes.get("SHA256")) if isinstance(hashes, dict) else ""
    return [probe(Remote(f"{CIVITAI}/api/download/models/{source.where}", file.name, sha256=sha256), token, retries)]
