"""What is here already: records, notes of transfers, and files that are not what they should be."""

import hashlib
import json
import logging
import os

import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download.fetch import ensure
from steadydancer.loaders.download.places import RECORD, file_hash, record
from support.downloads import AFTER, DATA, HASTY, NEW, NOTES, PART, TOY, model_file, on_disk, safetensors, visible
from support.hub import Fault

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


def test_a_pipe_in_a_records_or_a_notes_place_is_not_waited_for(hub, models):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    os.mkfifo(path.parent / RECORD)
    os.mkfifo(path.with_name(NOTES))
    assert ensure(model_file(sha256=SHA256), models).read_bytes() == DATA
    assert ensure(model_file(sha256=SHA256), models).read_bytes() == DATA


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
    path = ensure(model_file(sources=(*model_file().sources, second)), models, retries=HASTY)
    assert path.read_bytes() == DATA
    (aside,) = path.parent.glob("*.wrong-*")
    assert len(aside.read_bytes()) == len(DATA) and aside.read_bytes() != DATA
    assert visible(models) == ["toy.safetensors"]


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


def test_hash_is_of_the_bytes_on_disk(hub, models):
    path = ensure(model_file(), models)
    assert file_hash(path, lambda done, total: None, lambda: False) == hashlib.sha256(DATA).hexdigest()
