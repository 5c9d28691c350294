"""What servers do wrong on the way of a file: what the user reads, and what is on the disk then."""

import hashlib
import json
import traceback
from dataclasses import replace

import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.catalog.catalog import ModelFile, Source
from steadydancer.loaders.download import transfer, workflow
from steadydancer.loaders.download.errors import DownloadError
from steadydancer.loaders.download.fetch import ensure
from steadydancer.loaders.download.places import RECORD
from support.downloads import AFTER, DATA, HASTY, NEW, RESUMED, TOY, model_file, on_disk, safetensors, visible
from support.hub import Fault


def test_fetched_checked_and_then_no_request(hub, models, monkeypatch):
    path = ensure(model_file(), models)
    assert path == models.models_dir / "vae" / "toy.safetensors"
    assert path.read_bytes() == DATA
    assert hub.sent == len(DATA)
    assert len(hub.asked("cdn")) == 5  # chunks of 1 MiB
    assert on_disk(models) == ["toy.safetensors"] and (path.parent / RECORD).is_file()
    assert (
        json.loads((path.parent / RECORD).read_text())["toy.safetensors"]["sha256"] == hashlib.sha256(DATA).hexdigest()
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert ensure(model_file(), models) == path
    assert hub.requests == []


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
        path = ensure(file, models, progress, retries=HASTY)
        assert path.read_bytes() == DATA
    else:
        with pytest.raises(DownloadError, match=sentence) as caught:
            ensure(file, models, progress, retries=HASTY)
        assert visible(models) == []
        assert "Signature" not in "".join(traceback.format_exception(caught.value))
    assert seen_early == []
    assert on_disk(models) == left


LONGER = safetensors(2_600_000, seed=7)


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
    monkeypatch.setattr(transfer, "CHUNK", 1 << 18)  # more chunks than connections: some are asked for later
    hub.faults["toy.safetensors"] = replace(fault)
    file = model_file(sources=(Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors"),))
    if isinstance(outcome, bytes):
        assert ensure(file, models, retries=HASTY).read_bytes() == outcome
    else:
        with pytest.raises(DownloadError, match=outcome):
            ensure(file, models, retries=HASTY)
    assert on_disk(models) == left
    assert hub.sent < 25_000_000  # of an endless one: twice what the catalogue expects, and what was on its way


def test_what_was_fetched_of_another_version_is_not_taken_up(hub, models, monkeypatch):
    """Cancelled, changed by its publisher while the size and what the listing says stay, begun again."""
    monkeypatch.setattr(transfer, "CHUNK", 1 << 18)
    file = model_file(sources=(Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors"),))
    hub.total = 2e6
    with pytest.raises(Cancelled):
        ensure(file, models, cancelled=lambda: hub.sent > AFTER)
    assert on_disk(models) == RESUMED
    hub.total = 0.0
    hub.put("owner/toy", "sub/toy.safetensors", NEW)
    assert ensure(file, models).read_bytes() == NEW


def test_a_fault_in_the_program_is_told_as_one(hub, models, monkeypatch, caplog):
    from steadydancer.loaders.download import hub as publishers

    def faulty(*args):
        return {}["oid"]

    monkeypatch.setattr(publishers, "hub_url", faulty)
    with pytest.raises(DownloadError, match=r"something unexpected failed on this machine.*KeyError: 'oid'"):
        ensure(model_file(), models)
    assert "in faulty" in caplog.text and "connection" not in caplog.text
    monkeypatch.undo()


def test_once_is_not_once_in_a_row(hub, models):
    hub.faults["toy.safetensors"] = Fault(unreachable=True)
    once = replace(HASTY, attempts=1)
    with pytest.raises(DownloadError, match="broke off: the server refuses connections. What was fetched is kept"):
        ensure(model_file(), models, retries=once)
    hub.stop()
    with pytest.raises(DownloadError, match="the server refuses connections. Check the network and run again"):
        ensure(model_file(), models, retries=once)


@pytest.mark.parametrize("ranges", [True, False])
def test_plain_url(hub, models, ranges):
    hub.faults["toy.safetensors"] = Fault(no_ranges=not ranges, drop_at=0.5, times=1)
    source = Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors")
    assert ensure(model_file(sources=(source,)), models, retries=HASTY).read_bytes() == DATA


def test_truncated_copy_of_a_plain_url_is_noticed(hub, models):
    hub.faults["toy.safetensors"] = Fault(truncated=True)  # nobody declares a hash here, but the header knows its size
    source = Source("url", f"{hub.endpoint}/owner/toy/sub/toy.safetensors")
    with pytest.raises(DownloadError, match="arrived damaged: it is cut short"):
        ensure(model_file(sources=(source,)), models, retries=HASTY)
    assert visible(models) == []
