"""The downloader against a real server with faults on demand."""

import collections
import errno
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import support
from steadydancer.base.cancel import Cancelled
from steadydancer.catalog.catalog import ModelFile, Source
from steadydancer.loaders.download import transfer, workflow
from steadydancer.loaders.download.errors import DownloadError, NoRoom
from steadydancer.loaders.download.fetch import ensure, ensure_all
from steadydancer.loaders.download.places import RECORD, Places, file_hash, record
from steadydancer.loaders.download.transfer import Patience, Remote, Transfer
from support.hub import Fault, Hub, Proxy, certificate
from support.work import returns

HASTY = Patience(attempts=3, first=0.02, limit=0.05, timeout=2)
ENDLESS = Patience(timeout=3600)  # nothing but Cancel ends a wait
TOKEN = "hf_canary_0123456789"


def safetensors(values: int, seed: int = 1) -> bytes:
    """A file in the safetensors layout: `values` float16 numbers, all bytes different enough to catch a misplaced piece."""
    header = json.dumps({"w": {"dtype": "F16", "shape": [values], "data_offsets": [0, 2 * values]}}).encode()
    body = hashlib.shake_256(str(seed).encode()).digest(2 * values)
    return len(header).to_bytes(8, "little") + header + body


DATA = safetensors(2_500_000)


def model_file(**changes) -> ModelFile:
    file = ModelFile(
        id="toy",
        family="toy",
        role="vae",
        folder="vae",
        name="toy.safetensors",
        format="safetensors",
        licence="MIT",
        confirmed="test",
        sources=(Source("hub", "owner/toy", path="sub/toy.safetensors"),),
        bytes=None,
        sha256="",
        gb=0.005,
        full_precision=False,
    )
    return replace(file, **changes)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    hub.put("owner/toy", "sub/toy.safetensors", DATA)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(transfer, "PIECE", 1 << 20)
    yield hub
    hub.stop()


@pytest.fixture
def models(tmp_path):
    return Places(tmp_path / "models")


def on_disk(models: Places) -> list[str]:
    """Every file that was left, but for records and locks; a hash in a name as one star."""
    names = (path.name for path in models.models_dir.rglob("*") if path.is_file())
    return sorted(
        re.sub("wrong-.*", "wrong-*", name) for name in names if name != RECORD and not name.endswith(".lock")
    )


def visible(models: Places) -> list[str]:
    """Every file that a model list would show."""
    return sorted(path.name for path in models.models_dir.rglob("*.safetensors"))


def test_fetched_checked_and_then_no_request(hub, models, monkeypatch):
    path = ensure(model_file(), models)
    assert path == models.models_dir / "vae" / "toy.safetensors"
    assert path.read_bytes() == DATA
    assert hub.sent == len(DATA)
    assert len(hub.asked("cdn")) == 5  # pieces of 1 MiB
    assert on_disk(models) == ["toy.safetensors"] and (path.parent / RECORD).is_file()
    assert (
        json.loads((path.parent / RECORD).read_text())["toy.safetensors"]["sha256"] == hashlib.sha256(DATA).hexdigest()
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert ensure(model_file(), models) == path
    assert hub.requests == []


TOY, PART, NOTES = "toy.safetensors", "toy.safetensors.part", "toy.safetensors.part.json"
RESUMED = [PART, NOTES]

# fault: (what the server does, what the user reads or None where the file arrives, what is on the disk then)
OUTCOMES = {
    "drop at 60 %, once": (Fault(drop_at=0.6, times=1), None, [TOY]),
    "drop at 60 %, for ever": (Fault(drop_at=0.6, times=999), "the connection was lost, 3 times in a row", RESUMED),
    "429 then success": (Fault(statuses=(429, 429), retry_after="0"), None, [TOY]),
    "429 for ever": (Fault(statuses=(429,) * 99), "the server answered 429, 3 times in a row", RESUMED),
    "429 for a day": (Fault(statuses=(429,) * 99, retry_after="86400"), "asks to come back in 1440 minutes", RESUMED),
    "503 then success": (Fault(statuses=(503, 502)), None, [TOY]),
    "second host unreachable": (Fault(unreachable=True), "the server refuses connections, 3 times in a row", RESUMED),
    "silent too long": (Fault(stall=3.0), "the server is silent", RESUMED),
    "wrong bytes": (Fault(wrong=True), "arrived damaged: its sha256 is not", [f"{TOY}.wrong-*"]),
    "truncated": (Fault(truncated=True), "was changed by its publisher", []),
    "403 gated": (Fault(gated=True), "its licence must be accepted once", []),
    "403 at the second host": (Fault(statuses=(403,) * 99), "needs an account that may download it", RESUMED),
    "404 at the second host": (Fault(statuses=(404,) * 99), "does not have toy.safetensors", RESUMED),
    "login page in the file's place": (Fault(page="here"), "answered with a web page in its place", []),
    "redirect to a login page": (Fault(page="away"), "127.0.0.1:.* answered with a web page in its place", []),
    "407 at the second host": (Fault(statuses=(407,) * 99), "wants a name and a password", RESUMED),
    "511 at the second host": (Fault(statuses=(511,) * 99), "mostly a login page", RESUMED),
    "416 at the second host": (Fault(statuses=(416,) * 999), "was changed by its publisher", []),
    "part that begins elsewhere": (Fault(shifted=7), "sends other bytes than those that were asked for", RESUMED),
    "packed by a proxy": (Fault(packed="gzip"), r"sends it packed \(gzip\)", RESUMED),
    "body without end": (Fault(endless=True, no_ranges=True), "stopped sending parts", RESUMED),
}


def named_by_a_workflow(hub) -> ModelFile:
    """The same file, of which a graph gives name, folder and address, and nobody size or hash."""
    entry = {"name": TOY, "directory": "vae", "url": f"{hub.endpoint}/owner/toy/resolve/main/sub/{TOY}"}
    (file,) = workflow.named({"nodes": [{"type": "X", "properties": {"models": [entry]}}]}, str).files
    return file


@pytest.mark.parametrize("by_workflow", [False, True], ids=["catalogue", "workflow"])
@pytest.mark.parametrize(("fault", "sentence", "left"), OUTCOMES.values(), ids=OUTCOMES)
def test_faults(hub, models, fault, sentence, left, by_workflow):
    file = named_by_a_workflow(hub) if by_workflow else model_file()
    hub.faults["toy.safetensors"] = replace(fault)
    seen_early = []

    def progress(done, total):
        if done < total and visible(models):
            seen_early.append(done)

    if sentence is None:
        path = ensure(file, models, progress, patience=HASTY)
        assert path.read_bytes() == DATA
    else:
        with pytest.raises(DownloadError, match=sentence) as caught:
            ensure(file, models, progress, patience=HASTY)
        assert visible(models) == []
        assert "Signature" not in "".join(traceback.format_exception(caught.value))
    assert seen_early == []
    assert on_disk(models) == left


NEW = safetensors(2_500_000, seed=7)
LONGER = safetensors(2_600_000, seed=7)
AFTER = 1_000_000  # bytes of the old version that have left

# The same where nobody declares a hash: (what the server does, what the user reads or the bytes that arrive, what is left)
UNPROVED = {
    "changes": (Fault(later=NEW, after=AFTER), NEW, [TOY]),
    "changes and grows": (Fault(later=LONGER, after=AFTER), LONGER, [TOY]),
    "changes, If-Range is not looked at": (Fault(later=NEW, after=AFTER, careless=True), NEW, [TOY]),
    "changes, weak ETag": (Fault(later=NEW, after=AFTER, weak=True), NEW, [TOY]),
    "changes and grows, no ETag": (Fault(later=LONGER, after=AFTER, no_etag=True), DATA, [TOY]),
    "no ETag, no parts, drops once": (Fault(no_etag=True, drop_at=0.5, times=1), DATA, [TOY]),
    "begins elsewhere": (Fault(shifted=9), "sends other bytes than those that were asked for", RESUMED),
    "packed": (Fault(packed="gzip"), r"sends it packed \(gzip\)", RESUMED),
    "packed, no parts": (Fault(packed="br", no_ranges=True), r"sends it packed \(br\)", []),
    "no length": (Fault(no_ranges=True, endless=True, ends=True), DATA, [TOY]),
    "no length and no end": (Fault(endless=True, no_ranges=True), "sent more than asked for", []),
    "login page": (Fault(page="here"), "answered with a web page in its place", []),
    "redirect to a login page": (Fault(page="away"), "mostly a login page", []),
    "drops for ever": (Fault(no_ranges=True, drop_at=0.5, times=99), "the connection was lost, 3 times in a row", []),
}


@pytest.mark.parametrize(("fault", "outcome", "left"), UNPROVED.values(), ids=UNPROVED)
def test_faults_where_no_hash_is_known(hub, models, monkeypatch, fault, outcome, left):
    monkeypatch.setattr(transfer, "PIECE", 1 << 18)  # more pieces than connections: some are asked for later
    hub.faults["toy.safetensors"] = replace(fault)
    file = model_file(sources=(Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors"),))
    if isinstance(outcome, bytes):
        assert ensure(file, models, patience=HASTY).read_bytes() == outcome
    else:
        with pytest.raises(DownloadError, match=outcome):
            ensure(file, models, patience=HASTY)
    assert on_disk(models) == left
    assert hub.sent < 25_000_000  # of an endless one: twice what the catalogue expects, and what was on its way


def test_what_was_fetched_of_another_version_is_not_taken_up(hub, models, monkeypatch):
    """Cancelled, changed by its publisher while the size and what the listing says stay, begun again."""
    monkeypatch.setattr(transfer, "PIECE", 1 << 18)
    file = model_file(sources=(Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors"),))
    hub.total = 2e6
    with pytest.raises(Cancelled):
        ensure(file, models, cancelled=lambda: hub.sent > AFTER)
    assert on_disk(models) == RESUMED
    hub.total = 0.0
    hub.put("owner/toy", "sub/toy.safetensors", NEW)
    assert ensure(file, models).read_bytes() == NEW


# What is wrong on this machine: (variables, what the user reads). {…} are the servers of the test below.
MACHINE = {
    "SOCKS proxy, no package": ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "ALL_PROXY names a SOCKS proxy"),
    "SOCKS proxy for http, no package": ({"http_proxy": "socks5h://127.0.0.1:9"}, "http_proxy names a SOCKS proxy"),
    "proxy of no kind": ({"HTTP_PROXY": "ftp://127.0.0.1:9"}, "the proxy in HTTP_PROXY is not an address"),
    "proxy without a host": ({"all_proxy": "http://"}, "the proxy in all_proxy is not an address"),
    "proxy with a word for a port": ({"http_proxy": "proxy.example:port"}, "the proxy in http_proxy is not an address"),
    "proxy wants a login": ({"http_proxy": "{407}"}, r"the proxy 127.0.0.1:\d+ \(from http_proxy\) wants a name"),
    "proxy wants a login for https": (
        {"https_proxy": "{407}", "HF_ENDPOINT": "https://hub.example"},
        r"the proxy 127.0.0.1:\d+ \(from https_proxy\) wants a name",
    ),
    "proxy lets nothing through": (
        {"HTTPS_PROXY": "{403}", "HF_ENDPOINT": "https://hub.example"},
        "the proxy in HTTPS_PROXY does not let hub.example through",
    ),
    "endpoint without scheme": (
        {"HF_ENDPOINT": "hf-mirror.example"},
        "HF_ENDPOINT is 'hf-mirror.example', which is not",
    ),
    "endpoint of another kind": ({"HF_ENDPOINT": "ftp://mirror.example"}, "HF_ENDPOINT is 'ftp://mirror.example'"),
    "endpoint with a blank": ({"HF_ENDPOINT": "https://hf mirror.example"}, "HF_ENDPOINT is 'https://hf mirror"),
    "endpoint with a word for a port": ({"HF_ENDPOINT": "http://mirror.example:port"}, "HF_ENDPOINT is"),
    "endpoint with a password": (
        {"HF_ENDPOINT": f"https://me:{TOKEN}@mirror.example"},
        "HF_ENDPOINT is 'mirror.example'",
    ),
    "token with a line break": ({"HF_TOKEN": f"{TOKEN} \x1b[0m"}, "The token in HF_TOKEN holds a blank"),
    "token with a letter of no alphabet": ({"HF_TOKEN": f"{TOKEN}\udcff"}, "The token in HF_TOKEN holds"),
    "own certificate": ({"HF_ENDPOINT": "{own}"}, r"the certificate of 127.0.0.1:\d+ is not accepted \(self.signed"),
    "expired certificate": (
        {"HF_ENDPOINT": "{expired}", "REQUESTS_CA_BUNDLE": "{expired.pem}"},
        r"is not accepted \(certificate has expired\)",
    ),
    "certificate for another host": (
        {"HF_ENDPOINT": "{other}", "REQUESTS_CA_BUNDLE": "{own.pem}"},
        r"is not accepted \(Hostname mismatch",
    ),
    "certificates that are not there": (
        {"HF_ENDPOINT": "{own}", "REQUESTS_CA_BUNDLE": "{none.pem}"},
        "the certificates that REQUESTS_CA_BUNDLE names cannot be read",
    ),
    "certificates that are none": (
        {"HF_ENDPOINT": "{own}", "REQUESTS_CA_BUNDLE": __file__},
        "the certificates that REQUESTS_CA_BUNDLE names cannot be read",
    ),
    "https asked of http": ({"HF_ENDPOINT": "{plain}"}, r"127.0.0.1:\d+ does not speak https"),
}
VARIABLES = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")] + ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]


@pytest.fixture
def clean_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(("variables", "sentence"), MACHINE.values(), ids=MACHINE)
def test_faults_of_this_machine(hub, models, tmp_path, monkeypatch, caplog, clean_environment, variables, sentence):
    proxies = {str(status): Proxy(status) for status in (403, 407)}
    own, expired = certificate(tmp_path / "own.pem"), certificate(tmp_path / "expired.pem", days=-1)
    places = {name: proxy.address for name, proxy in proxies.items()} | {
        "own": hub.listen("hub", own),
        "expired": hub.listen("hub", expired),
        "plain": hub.endpoint.replace("http://", "https://"),
    }
    places["other"] = places["own"].replace("127.0.0.1", "localhost")
    places |= {f"{name}.pem": str(tmp_path / f"{name}.pem") for name in ("own", "expired", "none")}
    for name, value in variables.items():
        monkeypatch.setenv(name, places.get(value[1:-1], value) if value.startswith("{") else value)
    with pytest.raises(DownloadError, match=sentence) as caught, caplog.at_level(logging.DEBUG):
        ensure(model_file(), models)  # the patience of a real download: a second attempt would take its time
    for proxy in proxies.values():
        proxy.stop()
    assert "in a row" not in str(caught.value) and "connection was lost" not in str(caught.value)
    assert str(caught.value) in caplog.text
    assert len(hub.requests) + sum(len(proxy.asked) for proxy in proxies.values()) <= 1
    everything = caplog.text + "".join(traceback.format_exception(caught.value))
    assert TOKEN not in everything and "again in" not in caplog.text
    assert on_disk(models) == []


@pytest.mark.parametrize("kind", ["folder", "bytes"])
def test_a_token_file_that_cannot_be_read(hub, models, tmp_path, monkeypatch, kind):
    from huggingface_hub import constants

    path = tmp_path / "token"
    path.mkdir() if kind == "folder" else path.write_bytes(b"hf_\xff\xfe")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path))
    with pytest.raises(DownloadError, match=f"The token file {path} cannot be read: (is a directory|it is no text)"):
        ensure(model_file(), models)
    assert hub.requests == [] and on_disk(models) == []


def test_a_fault_in_the_program_is_told_as_one(hub, models, monkeypatch, caplog):
    from steadydancer.loaders.download import hub as publishers

    def faulty(*args):
        return {}["oid"]

    monkeypatch.setattr(publishers, "hub_url", faulty)
    with pytest.raises(DownloadError, match=r"something unexpected failed on this machine.*KeyError: 'oid'"):
        ensure(model_file(), models)
    assert "in faulty" in caplog.text and "connection" not in caplog.text
    monkeypatch.undo()


def test_a_company_certificate_in_its_variable_is_enough(hub, models, tmp_path, monkeypatch, clean_environment):
    own = certificate(tmp_path / "own.pem")
    monkeypatch.setenv("HF_ENDPOINT", hub.listen("hub", own))
    hub.cdn = hub.listen("cdn", own)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own))
    assert ensure(model_file(), models, patience=HASTY).read_bytes() == DATA


def test_a_proxy_that_is_not_there_is_named_and_tried_again(hub, models, monkeypatch, clean_environment):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match="the proxy in http_proxy cannot be reached, 3 times in a row"):
        ensure(model_file(), models, patience=HASTY)
    busy = Proxy(503)
    monkeypatch.setenv("https_proxy", busy.address)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    with pytest.raises(DownloadError, match="the proxy in https_proxy answered 503, 3 times in a row"):
        ensure(model_file(), models, patience=HASTY)
    busy.stop()
    assert busy.asked == [("CONNECT", "hub.example:443")] * 3


def test_once_is_not_once_in_a_row(hub, models):
    hub.faults["toy.safetensors"] = Fault(unreachable=True)
    once = replace(HASTY, attempts=1)
    with pytest.raises(DownloadError, match="broke off: the server refuses connections. What was fetched is kept"):
        ensure(model_file(), models, patience=once)
    hub.stop()
    with pytest.raises(DownloadError, match="the server refuses connections. Check the network and run again"):
        ensure(model_file(), models, patience=once)


TOKENS = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "the token file"]
QUANTS = Source("pattern", "owner/toy", patterns=("sub/*.safetensors",))


def log_in(monkeypatch, tmp_path, origin: str) -> str:
    """Puts the canary where `origin` says; returns how a sentence calls the place."""
    from huggingface_hub import constants

    if origin in TOKENS[:2]:
        monkeypatch.setenv(origin, TOKEN)
        return origin
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return f"the token file {tmp_path / 'token'}"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("origin", TOKENS)
@pytest.mark.parametrize("source", [model_file().sources[0], QUANTS], ids=["file", "listing"])
def test_a_refused_token_is_named_and_a_public_file_comes_without_it(
    hub, models, tmp_path, monkeypatch, caplog, source, origin, status
):
    place = log_in(monkeypatch, tmp_path, origin)
    hub.faults = {"toy.safetensors": Fault(token=status), "tree/main": Fault(token=status)}
    assert ensure(model_file(sources=(source,)), models, patience=HASTY).read_bytes() == DATA
    assert f"refuses the token in {place} when asked for toy.safetensors" in caplog.text
    assert TOKEN not in caplog.text
    assert ["authorization" in headers for _, _, _, headers in hub.asked("hub")][:2] == [True, False]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(token=401, gated=True), r"refuses the token in HF_TOKEN.*licence must be accepted once"),
        (Fault(token=401, private=True), r"refuses the token in HF_TOKEN.*Without a token it answers 404"),
        (Fault(gated=True, members=True), r"accept it with the account of the token in HF_TOKEN"),
    ],
    ids=["gated", "private", "gated for this account"],
)
def test_a_token_that_does_not_open_the_file(hub, models, monkeypatch, fault, sentence):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["toy.safetensors"] = fault
    with pytest.raises(DownloadError, match=sentence) as caught:
        ensure(model_file(), models, patience=HASTY)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert on_disk(models) == []


def test_a_token_that_is_revoked_meanwhile(hub, models, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["toy.safetensors"] = Fault(token=401, token_after=1)
    assert ensure(model_file(), models, patience=HASTY).read_bytes() == DATA
    assert "refuses the token in HF_TOKEN" in caplog.text and TOKEN not in caplog.text
    (models.target(model_file())).unlink()
    hub.requests.clear()
    hub.faults["toy.safetensors"] = Fault(token=401, token_after=1, token_needed=True)
    with pytest.raises(DownloadError, match="refuses the token in HF_TOKEN"):
        ensure(model_file(), models, patience=HASTY)


def test_netrc_goes_to_nobody(hub, models, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {TOKEN}\ndefault login me password {TOKEN}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url = Source("url", f"{hub.endpoint}/owner/toy/resolve/main/sub/toy.safetensors")
    for source in (model_file().sources[0], QUANTS, url):
        ensure(model_file(sources=(source,)), models, patience=HASTY).unlink()
    assert hub.asked("cdn") and not any("authorization" in headers for _, _, _, headers in hub.requests)


def test_a_signed_address_is_in_no_log(hub, models, caplog):
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "urllib3.connectionpool"):
        ensure(model_file(), models)
    assert "/blob/owner/toy/sub/toy.safetensors?" in caplog.text and "Signature" not in caplog.text


NAMES = {
    "line break": "a\nb.safetensors",
    "escape": "a\x1b[2Jb.safetensors",
    "half a character": "a\udcffb.safetensors",
    "turned direction": "a\u202egpj.safetensors",
    "300 letters": "a" * 300 + ".safetensors",
    "device": "deep/CON.safetensors",
    "device with a number": "com1",
    "dot at the end": "toy.safetensors.",
    "backslash": "deep\\toy.safetensors",
    "way out": "../toy.safetensors",
    "zero byte": "a\0b.safetensors",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", ["pattern", "snapshot", "offer"])
def test_names_that_no_file_should_have(hub, models, kind, name):
    hub.listed = [{"type": "file", "path": name, "size": 5, "oid": "a" * 40}]
    sources = {
        "pattern": Source("pattern", "owner/toy", patterns=("[!s]*",)),  # takes what is not in sub/
        "snapshot": Source("snapshot", "owner/toy"),
        "offer": Source("hub", "owner/toy", path="no.safetensors"),
    }
    file = model_file(name="Bundle" if kind == "snapshot" else "", sources=(sources[kind],))
    file = replace(file, format="folder") if kind == "snapshot" else file
    with pytest.raises(DownloadError, match="no file should have such a name|has no file no.safetensors") as caught:
        ensure(file, models, patience=HASTY)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert on_disk(models) == [] and hub.sent == 0


LISTINGS = {
    "no JSON": ({}, b"listing", "is not what such a server sends"),
    "another JSON": ({}, b'{"error": "x"}', "is not what such a server sends"),
    "many brackets": ({}, b"[" * 200_000, "is not what such a server sends"),
    "web page": ({"Content-Type": "text/html"}, b"<html>", "answered with a web page in its place"),
    "web page that does not say so": ({}, b" <!doctype html>", "answered with a web page in its place"),
    "goes on elsewhere": ({"Link": '<http://127.0.0.1:1/x>; rel="next"'}, b"[]", "goes on at another server"),
    "goes on for ever": ({"Link": '</api/models/owner/toy/tree/main>; rel="next"'}, b"[]", "has no end"),
    "entries that are none": ({}, b'[5, null, {"type": "file"}, {"type": "file", "path": 7}]', "has no weights at all"),
}


@pytest.mark.parametrize(("headers", "body", "sentence"), LISTINGS.values(), ids=LISTINGS)
def test_listings_that_are_none(hub, models, monkeypatch, headers, body, sentence):
    from steadydancer.loaders.download import hub as publishers

    monkeypatch.setattr(publishers, "PAGES", 5)
    hub.listing = headers, body
    with pytest.raises(DownloadError, match=sentence):
        ensure(model_file(sources=(QUANTS,)), models, patience=HASTY)
    assert on_disk(models) == []


@pytest.mark.parametrize("size", [-5, "many", None, True, 10**30, 0.5])
def test_a_size_that_is_none_is_not_believed(hub, models, size):
    name = hub.root / "owner/toy/plain.safetensors"
    name.write_bytes(DATA)
    hub.listing = (
        {},
        json.dumps([{"type": "file", "path": "plain.safetensors", "size": size, "oid": 5, "lfs": 7}]).encode(),
    )
    source = Source("pattern", "owner/toy", patterns=("plain*",))
    assert ensure(model_file(sources=(source,)), models, patience=HASTY).read_bytes() == DATA


SHA256 = hashlib.sha256(DATA).hexdigest()
RECORDS = {
    "empty": b"",
    "half written": b'{"toy.safetensors": {"size": 5000',
    "list": b"[1, 2]",
    "null": b"null",
    "no text": b"\xff\xfe\x00",
    "many brackets": b"[" * 200_000,
    "entry that is none": b'{"toy.safetensors": 5, ".": []}',
    "entry without hash": b'{"toy.safetensors": {"size": SIZE, "mtime": MTIME}}',
    "words for numbers": b'{"toy.safetensors": {"size": "SIZE", "mtime": "MTIME", "sha256": 5, "trusted": "yes"}}',
    "somebody else's word for trust": b'{"toy.safetensors": {"size": SIZE, "mtime": MTIME, "sha256": "", "trusted": 1}}',
}


@pytest.mark.parametrize("text", RECORDS.values(), ids=RECORDS)
def test_a_damaged_record_is_not_believed_and_is_repaired(hub, models, text):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(NEW)  # whole, and not the published one
    stat = path.stat()
    text = text.replace(b"SIZE", str(stat.st_size).encode()).replace(b"MTIME", str(stat.st_mtime_ns).encode())
    (path.parent / RECORD).write_bytes(text)
    assert ensure(model_file(sha256=SHA256), models).read_bytes() == DATA
    repaired = json.loads((path.parent / RECORD).read_text())
    assert repaired["toy.safetensors"]["sha256"] == SHA256 and list(repaired) == ["toy.safetensors"]
    assert on_disk(models) == [TOY, f"{TOY}.wrong-*"]


def test_a_record_that_cannot_be_read_is_not_written_over(hub, models):
    path = models.target(model_file())
    (path.parent / RECORD).mkdir(parents=True)
    assert ensure(model_file(), models).read_bytes() == DATA
    assert ensure(model_file(sha256=SHA256), models).read_bytes() == DATA
    assert (path.parent / RECORD).is_dir() and on_disk(models) == [TOY]


@pytest.mark.parametrize("names", [["../../vae/toy.safetensors"], [5], "toy", ["/etc/hostname"], {}])
def test_a_record_does_not_make_a_folder_whole(hub, models, names):
    hub.put("owner/bundle", "config.json", b"{}")
    hub.put("owner/bundle", f"deep/{RECORD.upper()}", b'{"x": {"trusted": true}}')
    hub.put("owner/bundle", RECORD, b'{".": {"files": ["config.json"]}}')
    file = model_file(name="Bundle", format="folder", sources=(Source("snapshot", "owner/bundle"),))
    root = models.target(file)
    root.mkdir(parents=True)
    models.target(model_file()).write_bytes(DATA)
    (root / RECORD).write_text(json.dumps({".": {"files": names}}))
    assert models.find(file) is None
    assert ensure(file, models) == root
    assert json.loads((root / RECORD).read_text())["."] == {"files": ["config.json"]}  # a published one is not fetched
    assert on_disk(models) == ["config.json", TOY]


RUINED = {
    "empty": lambda notes: "",
    "half written": lambda notes: json.dumps(notes)[:-20],
    "list": lambda notes: "[]",
    "many brackets": lambda notes: "[" * 200_000,
    "more than there is": lambda notes: json.dumps(notes | {"filled": [10**12] * len(notes["filled"])}),
    "less than nothing": lambda notes: json.dumps(notes | {"filled": [-5] * len(notes["filled"])}),
    "words": lambda notes: json.dumps(notes | {"filled": ["x"] * len(notes["filled"]), "done": "x"}),
    "of another piece": lambda notes: json.dumps(notes | {"piece": 5}),
}


@pytest.mark.parametrize("ruin", RUINED.values(), ids=RUINED)
def test_damaged_notes_of_a_transfer_are_not_believed(hub, models, ruin):
    from steadydancer.loaders.download.fetch import other_transfer

    hub.total = 2e6
    with pytest.raises(Cancelled):
        ensure(model_file(), models, cancelled=lambda: hub.sent > AFTER)
    part = models.target(model_file()).with_name(PART)
    notes = part.with_name(NOTES)
    notes.write_text(ruin(json.loads(notes.read_text())))
    assert isinstance(other_transfer(part), int)
    hub.total, counts = 0.0, []
    assert ensure(model_file(), models, lambda done, total: counts.append(done)).read_bytes() == DATA
    assert min(counts) >= 0 and max(counts) == len(DATA)


def test_wrong_bytes_are_kept_aside_and_the_next_source_is_taken(hub, models):
    hub.put("other/toy", "good/toy2.safetensors", DATA)
    hub.faults["sub/toy.safetensors"] = Fault(wrong=True)
    second = Source("hub", "other/toy", path="good/toy2.safetensors")
    path = ensure(model_file(sources=(*model_file().sources, second)), models, patience=HASTY)
    assert path.read_bytes() == DATA
    (aside,) = path.parent.glob("*.wrong-*")
    assert len(aside.read_bytes()) == len(DATA) and aside.read_bytes() != DATA
    assert visible(models) == ["toy.safetensors"]


def test_what_the_catalogue_does_not_know_is_refused_before_a_byte(hub, models):
    with pytest.raises(DownloadError, match="now publishes another"):
        ensure(model_file(sha256="0" * 64), models)
    with pytest.raises(DownloadError, match="now publishes another"):
        ensure(model_file(bytes=5), models)
    assert hub.sent == 0


def test_names_that_are_not_there_are_answered_with_what_is(hub, models):
    hub.put("owner/toy", "toy-Q4_K_M.gguf", b"GGUF1234")
    with pytest.raises(DownloadError, match=r"no file toy-Q5_K_M.gguf. It offers toy-Q4_K_M.gguf"):
        ensure(model_file(sources=(Source("hub", "owner/toy", path="toy-Q5_K_M.gguf"),)), models)
    with pytest.raises(DownloadError, match=r"does not exist or is private"):
        ensure(model_file(sources=(Source("hub", "owner/nothing", path="x.gguf"),)), models)


def test_pattern_takes_the_first_that_matches(hub, models, monkeypatch):
    for name in ("a-Q4_K_M_fix.gguf", "a-Q4_K_M_fix_from_fp8.gguf", "a-Q4_K_S_fix.gguf"):
        hub.put("owner/quants", name, b"GGUF" + name.encode())
    source = Source("pattern", "owner/quants", patterns=("a-Q4_K_M*from_fp8*.gguf", "a-Q4_K_M*.gguf"))
    file = model_file(name="", format="gguf", sources=(source,))
    path = ensure(file, models)
    assert path.name == "a-Q4_K_M_fix_from_fp8.gguf"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert ensure(file, models) == path


def test_snapshot_is_whole_or_absent(hub, models):
    hub.put("owner/bundle", "config.json", b"{}")
    hub.put("owner/bundle", "deep/weights.bin", b"x" * 3_000_000)
    file = model_file(id="bundle", role="bundle", folder="bundles", name="Bundle", format="folder",
                      sources=(Source("snapshot", "owner/bundle"),))  # fmt: skip
    hub.faults["deep/weights.bin"] = Fault(statuses=(404,) * 9)
    with pytest.raises(DownloadError):
        ensure(file, models, patience=HASTY)
    assert models.find(file) is None
    hub.faults.clear()
    hub.requests.clear()
    root = ensure(file, models)
    assert (root / "deep" / "weights.bin").stat().st_size == 3_000_000
    assert not any("config.json" in path for host, _, path, _ in hub.asked("cdn"))  # it was there from the first try
    hub.requests.clear()
    assert ensure(file, models) == root and hub.requests == []


@pytest.mark.parametrize("fault", [Fault(statuses=(503,) * 99), Fault(unreachable=True)], ids=["503", "unreachable"])
def test_a_signed_address_that_a_plain_url_leads_to_is_in_no_error(hub, models, fault):
    hub.faults["toy.safetensors"] = fault
    source = Source("url", f"{hub.endpoint}/owner/toy/resolve/main/sub/toy.safetensors")
    with pytest.raises(DownloadError, match="3 times in a row") as caught:
        ensure(model_file(sources=(source,)), models, patience=HASTY)
    assert "Signature" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("ranges", [True, False])
def test_plain_url(hub, models, ranges):
    hub.faults["toy.safetensors"] = Fault(no_ranges=not ranges, drop_at=0.5, times=1)
    source = Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors")
    assert ensure(model_file(sources=(source,)), models, patience=HASTY).read_bytes() == DATA


def test_truncated_copy_of_a_plain_url_is_noticed(hub, models):
    hub.faults["toy.safetensors"] = Fault(truncated=True)  # nobody declares a hash here, but the header knows its size
    source = Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors")
    with pytest.raises(DownloadError, match="arrived damaged: it is cut short"):
        ensure(model_file(sources=(source,)), models, patience=HASTY)
    assert visible(models) == []


def test_damaged_file_is_fetched_again_and_says_so(hub, models, caplog):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:-1000])
    with caplog.at_level(logging.WARNING):
        assert ensure(model_file(), models).read_bytes() == DATA
    assert "is cut short: fetching it again" in caplog.text
    assert list(path.parent.glob("*.wrong-*")) == []


@pytest.mark.parametrize("known", [{"sha256": hashlib.sha256(DATA).hexdigest()[:12]}, {"bytes": len(DATA)}], ids=str)
def test_another_file_of_the_same_name_is_kept(hub, models, known):
    mine = safetensors(1000, seed=2)
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(mine)
    said = []
    assert ensure(model_file(**known), models, say=said.append).read_bytes() == DATA
    (aside,) = path.parent.glob("*.wrong-*")
    assert aside.read_bytes() == mine
    assert said[-1].endswith(f"fetching it again. What is there is kept as {aside.name}.")


def test_a_gguf_that_lost_its_end_since_is_fetched_again(hub, models):
    hub.put("owner/toy", "toy.gguf", b"GGUF" + bytes(1000))
    file = model_file(name="toy.gguf", format="gguf", sources=(Source("hub", "owner/toy", path="toy.gguf"),))
    path = ensure(file, models)
    path.write_bytes(path.read_bytes()[:500])
    assert ensure(file, models).stat().st_size == 1004
    assert not list(path.parent.glob("*.wrong-*"))


def test_a_file_that_a_person_vouches_for_is_not_questioned(hub, models):
    mine = safetensors(1000, seed=2)
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(mine)
    record(path, "", trusted=True)
    assert ensure(model_file(sha256="0" * 64, bytes=7), models).read_bytes() == mine
    assert hub.requests == []


def test_a_file_that_windows_holds_gets_a_sentence_and_is_not_fetched_twice(hub, models, monkeypatch):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:-1000])
    replace_file = os.replace

    def held(source, target):
        if str(target) == str(path):
            raise PermissionError(13, "The process cannot access the file", str(path))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(DownloadError, match="is in use. Restart ComfyUI"):
        ensure(model_file(), models)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(transfer, "PIECE", 1 << 20)
    hub.sent = 0
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent == 0


@pytest.mark.skipif(os.name == "nt", reason="folders have no such rights on Windows")
def test_a_folder_that_may_only_be_read_is_used(hub, models, monkeypatch):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    file = model_file(sha256=hashlib.sha256(DATA).hexdigest())

    def refused(self, *args, **kwargs):
        raise PermissionError(30, "Read-only file system", str(self))

    monkeypatch.setattr(type(path), "write_text", refused)  # root may write anywhere, so rights alone prove nothing
    assert ensure(file, models) == path
    assert hub.requests == []


def test_files_in_subfolders_count(hub, models):
    path = models.models_dir / "vae" / "wan" / "toy.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert ensure(model_file(), models) == path
    assert hub.requests == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_files_behind_a_linked_folder_count(hub, models, tmp_path):
    """Rented machines keep their models on a volume."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "toy.safetensors").write_bytes(DATA)
    (models.models_dir / "vae").mkdir(parents=True)
    (models.models_dir / "vae" / "wan").symlink_to(tmp_path / "volume")
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.requests == []


def test_shards_of_another_model_are_not_ours(models):
    shard = model_file(folder="diffusion_models", name="SteadyDancer-14B/model-00001-of-00007.safetensors")
    folder = models.models_dir / "diffusion_models" / "sorted"
    for name in ("OtherModel", "SteadyDancer-14B"):
        (folder / name).mkdir(parents=True)
    (folder / "OtherModel" / "model-00001-of-00007.safetensors").write_bytes(DATA)
    assert models.find(shard) is None
    ours = folder / "SteadyDancer-14B" / "model-00001-of-00007.safetensors"
    ours.write_bytes(DATA)
    assert models.find(shard) == ours


def test_offline_says_which_file_to_place_where(hub, models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        ensure(model_file(gb=16.4), models)
    text = str(caught.value)
    assert str(models.models_dir / "vae" / "toy.safetensors") in text
    assert f"{hub.endpoint}/owner/toy/resolve/main/sub/toy.safetensors" in text and "16.4 GB" in text
    assert hub.requests == []
    quant = model_file(name="", sources=(Source("pattern", "owner/toy", patterns=("*-Q4_K_M[_.]*gguf",)),))
    with pytest.raises(DownloadError) as caught:
        ensure(quant, models)
    assert f"Place a file named like *-Q4_K_M[_.]*gguf into {models.models_dir / 'vae'} (" in str(caught.value)


def test_no_room_is_said_before_a_byte(hub, models, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 9 * 10**6, 10**6))
    with pytest.raises(DownloadError, match=r"it needs 0.0 GB more, 0.0 GB are free in .*vae. Free some space"):
        ensure(model_file(), models)
    assert hub.sent == 0


def test_what_an_earlier_run_holds_needs_no_room(hub, models, monkeypatch):
    import shutil

    part = models.models_dir / "vae" / "toy.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(len(DATA)))  # no holes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 9 * 10**6, 10**6))
    assert ensure(model_file(), models).read_bytes() == DATA


def test_a_lock_that_windows_holds_does_no_harm(hub, models, monkeypatch):
    unlink = Path.unlink

    def held(path, missing_ok=False):
        if path.suffix == ".lock":
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    assert ensure(model_file(), models).read_bytes() == DATA


@pytest.mark.parametrize("name", ["../evil.gguf", "/evil.gguf", "deep/../../evil.gguf"])
def test_a_listed_name_does_not_lead_out_of_the_folder(models, monkeypatch, name):
    from steadydancer.loaders.download import hub as publishers

    monkeypatch.setattr(publishers, "resolve", lambda *args: [Remote("http://127.0.0.1:1/x", name, 10)])
    for file in (
        model_file(name="", format="gguf", sources=(Source("pattern", "owner/toy", patterns=("*.gguf",)),)),
        model_file(name="Bundle", format="folder", sources=(Source("snapshot", "owner/toy"),)),
    ):
        with pytest.raises(DownloadError, match="its name leads out of"):
            ensure(file, models, patience=HASTY)


def test_the_next_source_is_named_only_when_there_is_one(hub, models):
    hub.faults["toy.safetensors"] = Fault(statuses=(404,) * 9)
    said = []
    with pytest.raises(DownloadError, match="No source could give"):
        ensure(model_file(sources=model_file().sources * 2), models, patience=HASTY, say=said.append)
    assert len(said) == 1 and said[0].endswith("Trying the next source.")


DISKS = {
    "ENOSPC": "The disk is full while toy.safetensors is downloaded. What was fetched is kept",
    "EDQUOT": r"your share of it \(quota\) is used up. What was fetched is kept",
    "EFBIG": "toy.safetensors is larger than a file may be in .*vae",
    "EROFS": "vae is on a volume that can only be read",
    "EACCES": "ComfyUI's user may not write in .*vae",
    "EPERM": "ComfyUI's user may not write in .*vae",
    "EIO": r"the disk of .*vae failed \(Input/output error\)",
    "ESTALE": r"the disk of .*vae failed \(Stale file handle\)",
    "ETIMEDOUT": r"the disk of .*vae failed \(Connection timed out\)",
    "ECONNRESET": r"the disk of .*vae failed \(Connection reset by peer\)",
    "EMFILE": "too many files are open",
    "ENAMETOOLONG": "the volume of .*vae takes no file of that name",
    "EINVAL": "the volume of .*vae takes no file of that name",
}


@pytest.mark.skipif(os.name == "nt", reason="errors have other texts on Windows")
@pytest.mark.parametrize(
    ("where", "name"),
    [
        *((where, name) for where in ("folder", "part", "write") for name in DISKS),
        *((where, name) for where in ("flush", "place") for name in ("ENOSPC", "EDQUOT", "EIO")),
    ],
)
def test_what_a_disk_says_is_told_in_words(hub, models, monkeypatch, where, name):
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    def failing(*args, **kwargs):
        raise error

    if where == "folder":
        monkeypatch.setattr(Path, "mkdir", failing)
    elif where == "part":
        monkeypatch.setattr(Transfer, "run", failing)
    elif where == "write":
        monkeypatch.setattr(transfer, "write", lambda file, block, write=transfer.write: write(Failing(error), block))
    elif where == "flush":
        hub.total = 4e6  # so that there is time for it
        monkeypatch.setattr(os, "fsync", failing)
    else:
        monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(DownloadError, match=DISKS[name]):
        ensure(model_file(), models, patience=HASTY)
    assert visible(models) == []


class Failing:
    """A file on a disk that fails."""

    name = "models/vae/toy.safetensors.part"

    def __init__(self, error: OSError):
        self.error = error

    def write(self, block):
        raise self.error


VOLUME = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
import support
from steadydancer.loaders.download.fetch import ensure
import importlib.util
spec = importlib.util.spec_from_file_location("these_tests", sys.argv[2])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
if sys.argv[4] == "a limit of the file's size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
elif os.getuid() == 0:
    import requests, huggingface_hub.hf_api, steadydancer.loaders.download.hub  # nobody may read these then
    os.setgid(65534)
    os.setuid(65534)
try:
    ensure(tests.model_file(), sys.argv[3])
except Exception as err:
    print(type(err).__name__, err)
"""


@pytest.mark.skipif(os.name == "nt", reason="users and limits of this kind are not on Windows")
@pytest.mark.parametrize(
    ("volume", "sentence"),
    {
        "a limit of the file's size": "toy.safetensors is larger than a file may be in",
        "a folder that may only be read": "ComfyUI's user may not write in",
        "a file in the folder's place": "is a file where a folder is needed",
    }.items(),
)
def test_real_volumes_that_refuse(hub, tmp_path, volume, sentence):
    models = Path(tempfile.mkdtemp(dir="/tmp"))  # nobody cannot look into pytest's folders
    models.chmod(0o755)
    vae = models / "vae"
    vae.write_bytes(b"") if "place" in volume else vae.mkdir(mode=0o555 if "read" in volume else 0o755)
    command = [sys.executable, "-c", VOLUME, str(support.TESTS), __file__, str(models), volume]
    variables = {**os.environ, "HF_TOKEN_PATH": str(models / "no-token")}
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    shutil.rmtree(models)
    assert said.stdout.startswith("DownloadError ") and sentence in said.stdout, said.stderr


@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_volume_without_locks(hub, models, monkeypatch, name):
    fcntl = pytest.importorskip("fcntl", reason="Windows has no such volumes")
    pytest.importorskip("steadydancer.base.lock", reason="the lock that goes on without one is not here yet")

    def refuse(*args):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert ensure(model_file(), models).read_bytes() == DATA
    assert on_disk(models) == [TOY]


def disk(total: int, free: int):
    """What shutil.disk_usage would say of such a disk."""
    return lambda path: shutil._ntuple_diskusage(total, total - free, free)


def toys(hub, count: int, **changes) -> list[ModelFile]:
    """Several files of DATA's size, published."""
    for i in range(count):
        hub.put("owner/toy", f"{i}.safetensors", DATA)
    sources = [(Source("hub", "owner/toy", path=f"{i}.safetensors"),) for i in range(count)]
    return [model_file(id=str(i), name=f"{i}.safetensors", sources=sources[i], **changes) for i in range(count)]


@pytest.mark.parametrize(
    "known", [{"bytes": len(DATA)}, {"gb": 0.006}, {"gb": 0.0}], ids=["stated", "estimated", "unknown"]
)
def test_the_room_of_the_whole_job_is_seen_to_before_a_byte(hub, models, monkeypatch, known):
    files = toys(hub, 4, **known)
    ensure(files[3], models)
    hub.sent = 0
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 2 * len(DATA) + 10**6))  # for two of the three
    with pytest.raises(NoRoom, match=r"for 3 files: it needs 0.0 GB more, 0.0 GB are free in .*vae.*left free"):
        ensure_all(files, models, patience=HASTY)
    assert hub.sent == 0 and on_disk(models) == ["3.safetensors"]
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 3 * len(DATA) + 2 * 10**6 + 1))
    assert len(ensure_all(files, models, patience=HASTY)) == 4


def test_the_room_of_a_whole_snapshot_is_seen_to_before_a_byte(hub, models, monkeypatch):
    for name in ("a.bin", "deep/b.bin", "c.bin"):
        hub.put("owner/bundle", name, DATA)
    file = model_file(name="Bundle", format="folder", sources=(Source("snapshot", "owner/bundle"),))
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 3 * len(DATA) + 10**6))
    with pytest.raises(NoRoom, match="Not enough disk space for Bundle: it needs"):
        ensure(file, models)
    assert hub.sent == 0
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 3 * len(DATA) + 2 * 10**6))
    assert (ensure(file, models) / "deep" / "b.bin").read_bytes() == DATA


def test_an_estimate_alone_refuses_nothing(hub, models, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk(10**9, 10**8))
    assert len(ensure_all(toys(hub, 2, gb=50.0), models, patience=HASTY)) == 2


@pytest.mark.parametrize(
    ("total", "free", "fits"),
    [
        (10**8, len(DATA) + 2 * 10**6 - 1, False),
        (10**8, len(DATA) + 2 * 10**6, True),
        (10**12, len(DATA) + 10**9 - 1, False),
        (10**12, len(DATA) + 10**9, True),
        (0, 0, True),  # a network volume that tells no size
    ],
)
def test_a_part_of_the_disk_stays_free(hub, models, monkeypatch, total, free, fits):
    monkeypatch.setattr(shutil, "disk_usage", disk(total, free))
    if fits:
        assert ensure(model_file(), models).read_bytes() == DATA
        return
    with pytest.raises(NoRoom, match=f"{min(10**9, total // 50) / 1e9:.1f} GB are left free"):
        ensure(model_file(), models)
    assert hub.sent == 0 and on_disk(models) == []


def test_what_others_fill_meanwhile_is_noticed(hub, models, monkeypatch):
    hub.total = 4e6
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: disk(10**12, 2 * 10**9 if hub.sent < 3 * AFTER else 10**8)(path)
    )
    with pytest.raises(NoRoom, match="The disk is full while toy.safetensors is downloaded: only 0.1 GB are left"):
        ensure(model_file(), models)
    assert on_disk(models) == RESUMED
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(transfer, "PIECE", 1 << 20)
    hub.total, before = 0.0, hub.sent
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent - before < len(DATA)  # what was there was taken up


def test_cancel_and_resume(hub, models):
    hub.rate = 0.5e6
    arrived = []
    with pytest.raises(Cancelled):
        ensure(model_file(), models, lambda done, total: arrived.append(done), lambda: arrived[-1:] > [500_000])
    assert visible(models) == []
    kept = json.loads(next(models.models_dir.rglob("*.part.json")).read_text())["done"]
    assert 500_000 < kept < len(DATA)
    time.sleep(1.2)  # the server notices that nobody listens
    hub.rate, hub.sent = 0.0, 0
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent == len(DATA) - kept


def test_a_stopped_connection_leaves_the_next_ones_file_alone(hub, tmp_path):
    remote = Remote(f"{hub.cdn}/blob/owner/toy/sub/toy.safetensors", "toy.safetensors", len(DATA), ranges=False)
    late = Transfer(remote, tmp_path / "toy.part", HASTY)
    ask = late.ask

    def stopped_meanwhile(session, index):
        response = ask(session, index)
        late.stop.set()
        return response

    late.ask = stopped_meanwhile
    late.part.write_bytes(b"the next prompt's")
    late.fetch(collections.deque([0]))
    assert late.part.read_bytes() == b"the next prompt's"


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path):
    transfer = Transfer(Remote("", "toy.safetensors", 5), tmp_path / "toy.part", HASTY)
    transfer.part.write_bytes(b"123")
    transfer.filled = [5]
    hashing = threading.Thread(target=transfer.hash, daemon=True)
    hashing.start()
    hashing.join(2)
    transfer.stop.set()
    assert "was cut off on the disk" in str(transfer.error)


def test_cancel_while_every_connection_is_silent(hub, models, monkeypatch):
    monkeypatch.setattr(transfer, "PIECE", 1 << 18)  # eight connections have work
    hub.faults["toy.safetensors"] = Fault(stall=3600)
    with pytest.raises(Cancelled):
        returns(ensure, model_file(), models, cancelled=lambda: len(hub.asked("cdn")) == 8, patience=ENDLESS)
    assert hub.sent == 0


def test_cancel_while_the_hub_is_silent(models, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        polls = itertools.count()
        with pytest.raises(Cancelled):
            returns(ensure, model_file(), models, cancelled=lambda: next(polls) > 2, patience=ENDLESS)


def test_without_a_network_it_says_so_after_two_tries_and_where_to_put_the_file(models, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-host.invalid")
    with pytest.raises(DownloadError) as raised:
        ensure(model_file(), models, patience=HASTY)
    said = str(raised.value)
    assert "the server's name is not known, 2 times in a row" in said
    assert (
        "models/vae by hand" in said
        and "http://no-such-host.invalid/owner/toy/resolve/main/sub/toy.safetensors" in said
    )


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import support
from steadydancer.loaders.download import transfer, workflow
from steadydancer.loaders.download.fetch import ensure
transfer.PIECE = 1 << 20
support_test = sys.argv[2]
import importlib.util
spec = importlib.util.spec_from_file_location("these_tests", support_test)
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
ensure(tests.model_file(), sys.argv[3], lambda done, total: print(done, flush=True))
print("finished", flush=True)
"""


QUIT = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import support
from steadydancer.loaders.download.fetch import ensure_all
import importlib.util
spec = importlib.util.spec_from_file_location("these_tests", sys.argv[2])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
begun = threading.Event()
work = [tests.model_file()], tests.Places(sys.argv[3]), lambda done, total: done and begun.set()
threading.Thread(target=ensure_all, args=work, kwargs={"jobs": int(sys.argv[4])}, daemon=True).start()
begun.wait(20)
print("quits", flush=True)
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_quitting_does_not_wait_for_the_download(hub, models, jobs):
    hub.rate = 0.1e6  # 10 s for the whole
    command = [sys.executable, "-c", QUIT, str(support.TESTS), __file__, str(models.models_dir), str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout.readline() == "quits\n"
        process.wait(3)
        assert 0 < hub.sent < len(DATA)
    finally:
        process.kill()


def child(models: Places) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(support.TESTS), __file__, str(models.models_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_at_60_percent_fetches_only_the_rest(hub, models):
    hub.rate = 0.5e6  # eight connections: 1.2 s for the whole
    process = child(models)
    for line in process.stdout:
        if int(line) > 0.6 * len(DATA):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert visible(models) == []
    kept = json.loads(next(models.models_dir.rglob("*.part.json")).read_text())["done"]
    assert kept > 0.5 * len(DATA)
    time.sleep(1.2)  # the server notices that nobody listens
    hub.rate, hub.sent = 0.0, 0
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent == len(DATA) - kept


def test_two_processes_and_two_threads_make_one_transfer(hub, models):
    hub.rate = 1e6
    processes = [child(models), child(models)]
    with ThreadPoolExecutor() as pool:
        tasks = [pool.submit(ensure, model_file(), models) for _ in range(2)]
        for task in tasks:
            assert task.result().read_bytes() == DATA
    for process in processes:
        assert process.communicate(timeout=30)[0].strip().endswith("finished")
    assert hub.sent == len(DATA)


def test_several_files_share_one_progress(hub, models):
    for i in range(3):
        hub.put("owner/toy", f"{i}.safetensors", safetensors(300_000, seed=i))
    files = [
        model_file(id=str(i), name=f"{i}.safetensors", sources=(Source("hub", "owner/toy", path=f"{i}.safetensors"),))
        for i in range(3)
    ]
    seen = []
    paths = ensure_all(files, models, lambda done, total: seen.append((done, total)), jobs=3)
    assert [path.name for path in paths] == ["0.safetensors", "1.safetensors", "2.safetensors"]
    size = len(safetensors(300_000))
    assert seen[-1] == (3 * size, 3 * size)
    hub.faults["1.safetensors"] = Fault(gated=True)
    paths[1].unlink()
    with pytest.raises(DownloadError, match="licence must be accepted"):
        ensure_all(files, models, jobs=3)


def test_progress_leaves_out_what_is_here(hub, models):
    for i in range(2):
        hub.put("owner/toy", f"{i}.safetensors", safetensors(300_000, seed=i))
    files = [
        model_file(id=str(i), name=f"{i}.safetensors", sources=(Source("hub", "owner/toy", path=f"{i}.safetensors"),))
        for i in range(2)
    ]
    ensure(files[1], models)
    seen = []
    ensure_all(files, models, lambda done, total: seen.append((done, total)))
    size = len(safetensors(300_000))
    assert seen[-1] == (size, size)


def test_the_token_goes_to_its_host_only_and_into_no_text(hub, models, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["toy.safetensors"] = Fault(gated=True, statuses=(503,))
    with caplog.at_level(logging.DEBUG):
        path = ensure(model_file(), models, patience=HASTY)
    assert path.read_bytes() == DATA
    assert all(TOKEN in headers["authorization"] for _, _, _, headers in hub.asked("hub"))
    assert hub.asked("cdn") and not any("authorization" in headers for _, _, _, headers in hub.asked("cdn"))
    assert not any(TOKEN in path for _, _, path, _ in hub.requests)
    path.unlink()
    hub.faults["toy.safetensors"] = Fault(statuses=(403,) * 99)
    with pytest.raises(DownloadError) as caught, caplog.at_level(logging.DEBUG):
        ensure(model_file(), models, patience=HASTY)
    everything = caplog.text + "".join(traceback.format_exception(caught.value))
    everything += "".join(path.read_text(errors="replace") for path in models.models_dir.rglob("*") if path.is_file())
    assert TOKEN not in everything


@pytest.fixture
def civitai(hub, monkeypatch):
    """CivitAI's two addresses of version 77, on the hub."""
    from steadydancer.loaders.download import hub as publishers

    sha256 = hashlib.sha256(DATA).hexdigest().upper()
    listing = {"files": [{"name": "x.safetensors", "primary": True, "hashes": {"SHA256": sha256}}]}
    hub.put("api/v1", "model-versions/77", json.dumps(listing).encode())
    hub.put("api", "download/models/77", DATA)
    monkeypatch.setattr(publishers, "CIVITAI", hub.endpoint)
    monkeypatch.setenv("CIVITAI_API_KEY", TOKEN)
    return model_file(sources=(Source("civitai", "77"),))


def test_civitai_key_goes_in_a_header(hub, models, civitai, caplog):
    with caplog.at_level(logging.DEBUG):
        assert ensure(civitai, models).read_bytes() == DATA
    assert all(headers["authorization"] == f"Bearer {TOKEN}" for _, _, _, headers in hub.requests)
    assert TOKEN not in caplog.text and not any(TOKEN in path for _, _, path, _ in hub.requests)


def test_a_refused_civitai_key(hub, models, civitai, caplog):
    hub.faults = {"77": Fault(token=401)}
    assert ensure(civitai, models, patience=HASTY).read_bytes() == DATA
    assert "refuses the token in CIVITAI_API_KEY" in caplog.text and TOKEN not in caplog.text


CIVITAI_ANSWERS = {
    "login page": (Fault(page="away"), None, "set HF_TOKEN or CIVITAI_API_KEY where the site wants an account"),
    "no file": (Fault(), {"files": []}, "lists no file of this version any more"),
    "another kind": (Fault(), {"files": 5}, "lists no file of this version any more"),
    "a list": (Fault(), [1], "is not what such a server sends"),
    "no hashes": (Fault(), {"files": [None, {"hashes": 7}]}, None),
}


@pytest.mark.parametrize(("fault", "listing", "sentence"), CIVITAI_ANSWERS.values(), ids=CIVITAI_ANSWERS)
def test_what_civitai_may_answer(hub, models, civitai, fault, listing, sentence):
    hub.faults["models/77"] = fault
    if listing is not None:
        hub.put("api/v1", "model-versions/77", json.dumps(listing).encode())
    if sentence is None:
        assert ensure(civitai, models, patience=HASTY).read_bytes() == DATA
        return
    with pytest.raises(DownloadError, match=sentence):
        ensure(civitai, models, patience=HASTY)
    assert on_disk(models) == []


def test_hash_is_of_the_bytes_on_disk(hub, models):
    path = ensure(model_file(), models)
    assert file_hash(path, lambda done, total: None, lambda: False) == hashlib.sha256(DATA).hexdigest()


def test_retry_after_is_obeyed():
    patience = Patience()
    assert patience.delay(1, "7") == 7
    with pytest.raises(DownloadError, match="asks to come back in 10 minutes"):
        patience.delay(1, "600")
    assert 0.5 <= patience.delay(1) <= 1.0
    assert 2.0 <= patience.delay(3) <= 4.0
    assert patience.delay(20) <= 60
    assert 8 < patience.delay(1, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 10))) <= 10
