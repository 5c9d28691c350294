"""What a publisher says of its files: names, sizes, patterns, whole repositories."""

import json
from dataclasses import replace

import pytest
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download.errors import DownloadError
from steadydancer.loaders.download.fetch import ensure
from steadydancer.loaders.download.transfer import Remote
from support.downloads import DATA, HASTY, QUANTS, model_file, on_disk
from support.hub import Fault

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
        ensure(file, models, retries=HASTY)
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
        ensure(model_file(sources=(QUANTS,)), models, retries=HASTY)
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
    assert ensure(model_file(sources=(source,)), models, retries=HASTY).read_bytes() == DATA


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
        ensure(file, models, retries=HASTY)
    assert models.find(file) is None
    hub.faults.clear()
    hub.requests.clear()
    root = ensure(file, models)
    assert (root / "deep" / "weights.bin").stat().st_size == 3_000_000
    assert not any("config.json" in path for host, _, path, _ in hub.asked("cdn"))  # it was there from the first try
    hub.requests.clear()
    assert ensure(file, models) == root and hub.requests == []


@pytest.mark.parametrize("name", ["../evil.gguf", "/evil.gguf", "deep/../../evil.gguf"])
def test_a_listed_name_does_not_lead_out_of_the_folder(models, monkeypatch, name):
    from steadydancer.loaders.download import hub as publishers

    monkeypatch.setattr(publishers, "resolve", lambda *args: [Remote("http://127.0.0.1:1/x", name, 10)])
    for file in (
        model_file(name="", format="gguf", sources=(Source("pattern", "owner/toy", patterns=("*.gguf",)),)),
        model_file(name="Bundle", format="folder", sources=(Source("snapshot", "owner/toy"),)),
    ):
        with pytest.raises(DownloadError, match="its name leads out of"):
            ensure(file, models, retries=HASTY)


def test_the_next_source_is_named_only_when_there_is_one(hub, models):
    hub.faults["toy.safetensors"] = Fault(statuses=(404,) * 9)
    said = []
    with pytest.raises(DownloadError, match="No source could give"):
        ensure(model_file(sources=model_file().sources * 2), models, retries=HASTY, say=said.append)
    assert len(said) == 1 and said[0].endswith("Trying the next source.")


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
        assert ensure(civitai, models, retries=HASTY).read_bytes() == DATA
        return
    with pytest.raises(DownloadError, match=sentence):
        ensure(civitai, models, retries=HASTY)
    assert on_disk(models) == []
