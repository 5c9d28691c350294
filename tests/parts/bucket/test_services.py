"""S3 is spoken in dialects: whatever a service makes of conditions, ETags and deleting, no file is lost or replaced."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from steadydancer.bucket import client, day_facts, keys
from steadydancer.bucket.client import MIB, Bucket, KeyTaken, StorageError
from steadydancer.bucket.journal import Journal
from steadydancer.bucket.profiles import Profile
from steadydancer.bucket.service import IGNORED, KEPT, REFUSED, try_out
from steadydancer.bucket.sync import Sync
from steadydancer.bucket.upload import deliver, upload
from support.s3_server import Fault

KEY = "pod/2026-01-02/clip.mp4"
SMALL, LARGE = 100_000, 12 * MIB
DIALECTS = list(itertools.product([KEPT, IGNORED, REFUSED], ["md5", "other"]))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(client, "SINGLE_PUT", 10 * MIB)
    monkeypatch.setattr(client, "PART", 5 * MIB)


@pytest.fixture(params=DIALECTS, ids=["-".join(dialect) for dialect in DIALECTS])
def dialect(request, s3):
    s3.conditions, s3.etags = request.param
    return request.param


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "user" / "journal.jsonl")


def bodies(s3) -> list[bytes]:
    return sorted(s3.body(key) for key in s3.objects)


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_nothing_is_replaced_and_what_arrived_stays(s3, dialect, bucket, make_file, size):
    first, second = make_file(size, "first.mp4"), make_file(size + 1, "second.mp4")
    assert not upload(bucket, first, KEY).was_there
    assert upload(bucket, first, KEY).was_there
    with pytest.raises(KeyTaken):
        upload(bucket, second, KEY)
    assert deliver(bucket, second, KEY).key == "pod/2026-01-02/clip-2.mp4"
    assert bodies(s3) == sorted([first.read_bytes(), second.read_bytes()])
    assert not any(operation == "DeleteObject" for operation, _ in s3.requests)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_equal_size_and_time_are_not_equal_bytes(s3, dialect, bucket, make_file, size):
    first, second = make_file(size, "first.mp4"), make_file(size, "second.mp4")
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    deliver(bucket, first, KEY)
    assert deliver(bucket, second, KEY).key == "pod/2026-01-02/clip-2.mp4"
    assert bodies(s3) == sorted([first.read_bytes(), second.read_bytes()])


def test_a_service_that_tells_neither_ETag_nor_length(s3, bucket, make_file):
    s3.etags = "none"
    first, second = make_file(SMALL, "first.mp4"), make_file(SMALL, "second.mp4")
    assert upload(bucket, first, KEY).key == KEY and upload(bucket, first, KEY).was_there
    assert deliver(bucket, second, KEY).key == "pod/2026-01-02/clip-2.mp4"
    assert bodies(s3) == sorted([first.read_bytes(), second.read_bytes()])
    bucket.put_small("test.json", {})
    assert not try_out(bucket, "test.json").md5_etags


def test_threads_that_save_under_one_name_lose_nothing(s3, dialect, connect, make_file, journal):
    s3.bytes_per_second = 2e6
    files = [make_file(20_000, f"{number}.png") for number in range(6)]
    buckets = [connect() for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(lambda n: deliver(buckets[n % 3], files[n], "fixed.png", journal), range(6)))
    assert len({uploaded.key for uploaded in sent}) == 6
    assert bodies(s3) == sorted(path.read_bytes() for path in files)


def test_a_torn_object_that_says_it_is_this_file_is_not_believed(s3, dialect, bucket, make_file):
    path = make_file(SMALL)
    upload(bucket, path, KEY)
    s3.objects[KEY]["file"].write_bytes(os.urandom(SMALL))
    s3.objects[KEY]["etag"] = "0" * 32
    assert deliver(bucket, path, KEY).key == "pod/2026-01-02/clip-2.mp4"


def test_a_key_that_may_not_delete_saves_all_the_same(s3, dialect, bucket, make_file):
    s3.may_delete = False
    path = make_file(SMALL)
    assert deliver(bucket, path, KEY).key == KEY and s3.body(KEY) == path.read_bytes()


def test_what_a_service_can_is_found_out(s3, dialect, bucket):
    bucket.put_small("test.json", {})
    can = try_out(bucket, "test.json")
    assert (can.conditions, can.md5_etags, can.multipart) == (dialect[0], dialect[1] == "md5", "")
    assert list(s3.objects) == ["test.json"] and not s3.uploads


def test_multipart_that_is_not_allowed_is_told(s3, bucket):
    s3.faults.append(Fault("403", "CreateMultipartUpload", 9))
    assert "Object Read & Write" in try_out(bucket, "test.json").multipart
    assert not s3.uploads


def test_a_refused_condition_is_asked_for_once(s3, bucket, make_file):
    s3.conditions = REFUSED
    for number in range(3):
        upload(bucket, make_file(SMALL, f"{number}.mp4"), f"{number}.mp4")
    assert sum("If-None-Match" in headers for headers in s3.headers) == 1


def test_what_was_found_out_is_kept_for_the_nodes_and_the_sync(s3, connect, make_file, journal):
    journal.note_service(connect().address, True)
    deliver(connect(), make_file(SMALL), KEY, Journal(journal.path))
    assert [operation for operation, key in s3.requests if key == KEY] == ["PutObject", "HeadObject"]
    s3.requests.clear()
    journal.note_service(connect().address, False)
    deliver(connect(), make_file(SMALL, "other.mp4"), "other.mp4", Journal(journal.path))
    assert [operation for operation, _ in s3.requests] == ["HeadObject", "PutObject", "HeadObject"]


@pytest.mark.parametrize(
    "endpoint, known",
    [
        (f"https://{'0' * 32}.eu.r2.cloudflarestorage.com", True),
        ("https://s3.eu-west-1.amazonaws.com", True),
        ("", True),
        ("https://s3.eu-central-003.backblazeb2.com", None),
        ("https://evilamazonaws.com", None),
        ("http://127.0.0.1:9000", None),
    ],
)
def test_only_services_that_promise_it_are_trusted_unasked(endpoint, known):
    assert Bucket(Profile("x", ("b",), endpoint)).keeps_conditions is known


@pytest.mark.parametrize("etags", ["md5", "none"])
def test_facts_of_the_day_on_every_service(s3, dialect, connect, etags):
    s3.etags = etags if etags == "none" else s3.etags
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: day_facts.add(connect(), {f"day/{n}.mp4": {"seed": n}}), range(3)))
    assert connect().read_json("day/metadata.json")[0] == {f"{n}.mp4": {"seed": n} for n in range(3)}


# The same name, size and time, whoever sends first.


def watch(bucket, journal, output, path):
    assert Sync(output, bucket, journal).round() == 1


def node(bucket, journal, output, path):
    with journal.claim(path) as ours:
        assert ours
        tokens = {"prefix": "", **keys.file_times(path.stat().st_mtime), **keys.file_names(path.name)}
        deliver(bucket, path, keys.fill(keys.TEMPLATE, tokens), journal)


def node_that_deletes(bucket, journal, output, path):
    node(bucket, journal, output, path)
    path.unlink()


def command(bucket, journal, output, path):
    node(bucket, Journal(journal.path), output, path)  # a process of its own reads the journal anew


ACTORS = [watch, node, node_that_deletes, command]


@pytest.mark.parametrize("first, second", list(itertools.product(ACTORS, ACTORS)), ids=lambda actor: actor.__name__)
@pytest.mark.parametrize("same_place", [True, False], ids=["rendered-again", "two-folders"])
@pytest.mark.parametrize("conditions, etags", [(KEPT, "md5"), (IGNORED, "other"), (REFUSED, "md5")])
def test_two_files_of_equal_name_size_and_time_are_two_objects(
    s3, conditions, etags, bucket, journal, tmp_path, first, second, same_place
):
    s3.conditions, s3.etags, output = conditions, etags, tmp_path / "output"
    contents = [b"A" * 5000, b"B" * 5000]
    for number, (act, content) in enumerate(zip((first, second), contents)):
        path = output / ("" if same_place else str(number)) / "clip_00001_.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(17 * 10**17, 17 * 10**17))
        act(bucket, journal, output, path)
    assert bodies(s3) == contents


def test_at_once_too(s3, dialect, connect, journal, tmp_path):
    """A node, a command and the watch, each with a file of that name, in a server and a process of their own."""
    s3.bytes_per_second, output = 1e6, tmp_path / "output"
    contents = [bytes([65 + number]) * 50_000 for number in range(4)]
    paths = [output / str(number) / "clip_00001_.mp4" for number in range(4)]
    for path, content in zip(paths, contents):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        os.utime(path, ns=(17 * 10**17, 17 * 10**17))
    start = threading.Barrier(4)

    def act(number):
        start.wait()
        if number == 3:
            Sync(output, connect(), Journal(journal.path)).round()
        else:
            (node_that_deletes, node, command)[number](connect(), Journal(journal.path), output, paths[number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(act, range(4)))
    while Sync(output, connect(), journal).round():
        pass
    assert set(bodies(s3)) == set(contents)


def test_a_read_back_that_fails_deletes_nothing(s3, bucket, make_file):
    s3.etags = "other"
    s3.faults.append(Fault("403", "GetObject", 9))
    path = make_file(SMALL)
    with pytest.raises(StorageError, match="Could not read .* back"):
        upload(bucket, path, KEY)
    assert s3.body(KEY) == path.read_bytes() and path.exists()
    s3.faults.clear()
    assert upload(bucket, path, KEY).was_there
