"""Uploads against the strict server: what arrives, what is refused, and every fault with its outcome."""

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.bucket.client import MIB, KeyTaken, StorageError, explain
from steadydancer.bucket.journal import Journal
from steadydancer.bucket.upload import deliver, upload
from support.s3_server import Fault
from support.work import returns

KEY = "pod/2026-01-02/clip.mp4"
SMALL, LARGE = 3 * MIB, 16 * MIB  # one PUT; three parts and a rest, with `small_parts`


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_arrived(s3, key, path):
    assert sha(s3.body(key)) == sha(path.read_bytes())
    assert not s3.uploads


@pytest.fixture
def small_parts(monkeypatch):
    """Multipart above 10 MiB in parts of 5 MiB, so that the tests need not move gigabytes."""
    monkeypatch.setattr("steadydancer.bucket.client.SINGLE_PUT", 10 * MIB)
    monkeypatch.setattr("steadydancer.bucket.client.PART", 5 * MIB)


@pytest.mark.parametrize("size", [0, 1, SMALL, 100 * MIB, 160 * MIB])
def test_bytes_at_the_server_equal_the_file(s3, bucket, make_file, size):
    path, seen = make_file(size), []
    result = upload(bucket, path, KEY, progress=lambda done, total: seen.append((done, total)))
    assert (result.key, result.size, result.was_there) == (KEY, size, False)
    assert_arrived(s3, KEY, path)
    assert seen[-1] == (size, size) and seen == sorted(seen)
    assert ("CreateMultipartUpload", KEY) in s3.requests if size > 100 * MIB else ("PutObject", KEY) in s3.requests
    assert s3.objects[KEY]["headers"]["content-type"] == "video/mp4"


def test_parts_are_equal_fifty_mib(s3, bucket, make_file):
    upload(bucket, make_file(160 * MIB), KEY)
    lengths = [
        int(head["Content-Length"]) for (op, _), head in zip(s3.requests, s3.headers, strict=True) if op == "UploadPart"
    ]
    assert sorted(lengths) == [10 * MIB, 50 * MIB, 50 * MIB, 50 * MIB]


def test_the_strict_server_refuses_what_plain_boto3_sends(s3, make_file):
    """Without the two checksum options boto3 sends what R2 answers with "Unauthorized"."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=s3.endpoint, region_name="auto", aws_access_key_id=s3.key_id, aws_secret_access_key=s3.secret
    )
    with make_file(SMALL).open("rb") as file, pytest.raises(client.exceptions.ClientError):
        client.put_object(Bucket="renders", Key=KEY, Body=file)
    assert not s3.objects


@pytest.mark.parametrize("extra", [{"ACL": "public-read"}, {"Tagging": "a=b"}, {"Metadata": {"workflow": "x" * 8192}}])
def test_the_strict_server_refuses_what_r2_lacks(s3, bucket, extra):
    bucket.client.put_object(Bucket="renders", Key=KEY, Body=b"")
    with pytest.raises(bucket.client.exceptions.ClientError):
        bucket.client.put_object(Bucket="renders", Key="other", Body=b"", **extra)
    assert list(s3.objects) == [KEY]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_another_object_is_not_overwritten_unless_asked(s3, small_parts, bucket, make_file, size):
    first = make_file(size, "first.mp4")
    second = make_file(size, "second.mp4")
    upload(bucket, first, KEY)
    with pytest.raises(KeyTaken, match="exists already"):
        upload(bucket, second, KEY)
    assert_arrived(s3, KEY, first)
    assert deliver(bucket, second, KEY).key == "pod/2026-01-02/clip-2.mp4"
    upload(bucket, second, KEY, overwrite=True)
    assert_arrived(s3, KEY, second)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_same_file_again_sends_nothing(s3, small_parts, bucket, make_file, size):
    path = make_file(size)
    upload(bucket, path, KEY)
    sent = sum(int(head.get("Content-Length", 0)) for head in s3.headers)
    assert upload(bucket, path, KEY).was_there
    again = sum(int(head.get("Content-Length", 0)) for head in s3.headers) - sent
    assert again <= (size if size == SMALL else 0)  # the condition of a single PUT is judged when it arrives


# Faults × outcome. "arrives": retried and byte-equal; otherwise the words that the user reads.
FAULTS = [
    ("reset mid-body", Fault("reset", "PutObject", after_bytes=MIB), SMALL, {}, "arrives"),
    ("reset mid-part", Fault("reset", "UploadPart", after_bytes=3 * MIB), LARGE, {}, "arrives"),
    ("reset mid-part, for good", Fault("reset", "UploadPart", 999, MIB), LARGE, {}, "connection broke"),
    ("reply lost after the PUT", Fault("lost-reply", "PutObject"), SMALL, {}, "arrives"),
    ("reply lost after completing", Fault("lost-reply", "CompleteMultipartUpload"), LARGE, {}, "arrives"),
    ("500 once", Fault("500", "PutObject"), SMALL, {}, "arrives"),
    ("500 for good", Fault("500", "PutObject", 999), SMALL, {}, "problem of its own"),
    ("500 on a part", Fault("500", "UploadPart", 2), LARGE, {}, "arrives"),
    ("500 on completing, for good", Fault("500", "CompleteMultipartUpload", 999), LARGE, {}, "problem of its own"),
    ("503 SlowDown", Fault("503", "UploadPart", 3), LARGE, {}, "arrives"),
    ("503 SlowDown, for good", Fault("503", "", 999), SMALL, {}, "asked to slow down"),
    ("429 once", Fault("429", "PutObject"), SMALL, {}, "arrives"),
    ("403 on the PUT", Fault("403", "PutObject"), SMALL, {}, "Object Read & Write"),
    ("403 on a part", Fault("403", "UploadPart"), LARGE, {}, "Object Read & Write"),
    ("403 on the check", Fault("403", "HeadObject", 999), SMALL, {}, "Object Read & Write"),
    ("expired token", Fault("expired", "PutObject"), SMALL, {}, "temporary key .* has expired"),
    ("expired token on a part", Fault("expired", "UploadPart"), LARGE, {}, "temporary key .* has expired"),
    ("wrong key id", None, SMALL, {"access_key_id": "OTHER"}, "does not know the access key id"),
    ("wrong secret", None, SMALL, {"secret_access_key": "CANARY"}, "secret access key of .* does not fit"),
    (
        "wrong bucket or jurisdiction",
        None,
        SMALL,
        {"buckets": ("nowhere",)},
        "no bucket 'nowhere'.*\\.eu or \\.fedramp",
    ),
    ("no network", None, SMALL, {"endpoint": "http://127.0.0.1:9"}, "could not be reached"),
    ("clock 20 minutes off", "clock", SMALL, {}, "clock is wrong by 20 minutes"),
    ("slow link, 8 MB/s", "slow", SMALL, {}, "arrives"),
]


@pytest.fixture(scope="module")
def table():
    rows = []
    yield rows
    print(f"\n\n{'fault':30} {'size':>8}  outcome")
    for fault, size, outcome in rows:
        print(f"{fault:30} {size // MIB:4} MiB  {outcome}")


@pytest.mark.parametrize("name, fault, size, changes, outcome", FAULTS, ids=[row[0] for row in FAULTS])
def test_faults(s3, small_parts, connect, make_file, table, name, fault, size, changes, outcome):
    path, bucket = make_file(size), connect(**changes)
    if isinstance(fault, Fault):
        s3.faults.append(Fault(fault.action, fault.operation, fault.times, fault.after_bytes))
    s3.clock = 1200.0 if fault == "clock" else 0.0
    s3.bytes_per_second = 8e6 if fault == "slow" else 0.0
    if outcome == "arrives":
        upload(bucket, path, KEY)
        assert_arrived(s3, KEY, path)
        table.append((name, size, "arrived, bytes equal"))
    else:
        with pytest.raises(StorageError, match=outcome) as caught:
            upload(bucket, path, KEY)
        assert not s3.uploads, "an orphaned multipart upload was left"
        assert KEY not in s3.objects or sha(s3.body(KEY)) == sha(path.read_bytes())
        assert path.stat().st_size == size
        assert s3.secret not in str(caught.value) and "CANARY" not in str(caught.value)
        table.append((name, size, str(caught.value)))


def test_bytes_that_changed_on_the_way_are_found_and_removed(s3, bucket, make_file, monkeypatch):
    path = make_file(SMALL)
    original = s3.take_fault

    def rot(operation):
        if operation == "HeadObject" and KEY in s3.objects:
            s3.objects[KEY]["file"].write_bytes(os.urandom(SMALL))
            s3.objects[KEY]["etag"] = "0" * 32
        return original(operation)

    monkeypatch.setattr(s3, "take_fault", rot)
    with pytest.raises(StorageError, match="holds other bytes"):
        upload(bucket, path, KEY)
    assert KEY not in s3.objects and path.exists()


def test_what_another_machine_stored_meanwhile_is_not_removed(s3, small_parts, connect, make_file, monkeypatch):
    path, other, bucket = make_file(LARGE), make_file(LARGE - 1, "other.mp4"), connect()
    original, done = s3.take_fault, []

    def overtake(operation):
        if operation == "HeadObject" and KEY in s3.objects and not done:
            done.append(operation)
            upload(connect(), other, KEY, overwrite=True)
        return original(operation)

    monkeypatch.setattr(s3, "take_fault", overtake)
    with pytest.raises(StorageError, match="does not hold all of it"):
        upload(bucket, path, KEY)
    assert_arrived(s3, KEY, other)


def test_a_file_that_grows_while_sent_is_refused(s3, small_parts, bucket, make_file):
    path = make_file(LARGE)
    s3.bytes_per_second = 40e6
    grown = threading.Event()

    def progress(done, total):
        if done and not grown.is_set():
            with path.open("ab") as file:
                file.write(b"more")
            grown.set()

    with pytest.raises(StorageError, match="changed while it was being sent"):
        upload(bucket, path, KEY, progress=progress)
    assert grown.is_set() and not s3.objects and not s3.uploads


def change_while_sent(s3, bucket, path, change, rate=40e6):
    """Uploads `path` and calls `change()` once some of it was read."""
    s3.bytes_per_second, done = rate, []

    def progress(count, total):
        if count and not done:
            done.append(change())

    try:
        return upload(bucket, path, KEY, progress=progress)
    finally:
        assert done


def shorten(path, to):
    os.truncate(path, to)


@pytest.mark.parametrize("size, to", [(9 * MIB, 5 * MIB), (LARGE, 6 * MIB), (9 * MIB, 0)])
def test_a_file_that_shrinks_while_sent_is_refused_at_once(s3, small_parts, bucket, make_file, size, to):
    path = make_file(size)
    with pytest.raises(StorageError, match="changed while it was being sent"):
        change_while_sent(s3, bucket, path, lambda: shorten(path, to), rate=8e6)
    s3.bytes_per_second = 0
    end = time.monotonic() + 20
    while s3.uploads and time.monotonic() < end:
        time.sleep(0.05)
    assert not s3.objects and not s3.uploads
    assert upload(bucket, path, KEY).size == to  # what it is now goes


def test_a_file_that_vanishes_while_sent_is_whole_in_the_bucket_or_an_error(s3, small_parts, bucket, make_file):
    path = make_file(9 * MIB)
    whole = path.read_bytes()
    change_while_sent(s3, bucket, path, path.unlink)  # an open file is still there to be read
    assert s3.body(KEY) == whole
    s3.objects.clear()
    path = make_file(60 * MIB)  # the parts at its end are opened later
    with pytest.raises(StorageError, match="no longer there"):
        change_while_sent(s3, bucket, path, path.unlink)
    assert not s3.objects


def test_a_file_rewritten_with_the_same_size_and_time_is_not_taken_for_what_was_read(
    s3, small_parts, bucket, make_file
):
    path = make_file(9 * MIB)
    before = path.stat()

    def rewrite():
        path.write_bytes(os.urandom(9 * MIB))
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))

    with pytest.raises(StorageError, match="other bytes|changed while"):
        change_while_sent(s3, bucket, path, rewrite, rate=8e6)
    assert not s3.objects and path.exists()


def test_what_could_not_be_removed_is_named(s3, small_parts, bucket, make_file):
    path, s3.may_delete = make_file(LARGE), False

    def grow():
        with path.open("ab") as file:
            file.write(b"more")

    original = bucket.head

    def head(key):
        if key in s3.objects:
            grow()
        return original(key)

    bucket.head = head
    with pytest.raises(StorageError, match=f"changed while .* may not remove it: delete '{KEY}' yourself"):
        upload(bucket, path, KEY)


class Interrupt(BaseException):
    """As ComfyUI's own interrupt: not an Exception."""


@pytest.mark.parametrize("size", [40 * MIB, 160 * MIB])  # more than the sockets' buffers take
@pytest.mark.parametrize("error", [Interrupt, KeyboardInterrupt, ValueError])
def test_whatever_a_callback_raises_ends_the_upload_and_is_raised(s3, bucket, make_file, size, error):
    """boto3's own upload_file returns normally, with nothing uploaded, when its callback raises a BaseException."""
    s3.bytes_per_second = 8e6

    def progress(done, total):
        if done:
            raise error

    with pytest.raises(error):
        upload(bucket, make_file(size), KEY, progress=progress)
    assert not s3.objects and not s3.uploads


def test_boto3_alone_still_swallows_a_base_exception(s3, bucket, make_file):
    """The reason for the design above. When this fails, the library has changed: look at `_send` again."""

    def callback(count):
        raise Interrupt

    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, use_threads=True)
    bucket.client.upload_file(str(make_file(20 * MIB)), "renders", KEY, Callback=callback, Config=config)
    assert KEY not in s3.objects


@pytest.mark.parametrize(("rate", "pressed_at"), [(200e6, 200 * MIB), (1e6, 2 * MIB)])
def test_cancel_during_a_gigabyte(s3, bucket, tmp_path, rate, pressed_at):
    """What is in flight then, up to 400 MB, is not waited for: on the slow link that would take minutes."""
    path = tmp_path / "big.mp4"
    with path.open("wb") as file:
        file.truncate(1024 * MIB)
    s3.bytes_per_second, s3.keep_bodies = rate, False
    with pytest.raises(Cancelled):
        returns(upload, bucket, path, KEY, cancelled=lambda: s3.received > pressed_at)
    end = time.monotonic() + 10
    while s3.uploads and time.monotonic() < end:  # on a slow link the abort follows when the parts have let go
        time.sleep(0.05)
    assert not s3.uploads and not s3.objects and path.exists()
    s3.bytes_per_second, s3.keep_bodies = 0, True
    small = tmp_path / "next.mp4"
    small.write_bytes(os.urandom(1000))
    upload(bucket, small, "next.mp4")
    assert_arrived(s3, "next.mp4", small)


@pytest.mark.parametrize("operation, after", [("UploadPart", MIB), ("HeadObject", 0), ("CompleteMultipartUpload", 0)])
def test_cancel_on_a_dead_link_does_not_wait_for_it(s3, small_parts, bucket, make_file, operation, after):
    s3.faults.append(Fault("stall", operation, 99, after))
    path = make_file(LARGE)
    with pytest.raises(Cancelled):
        returns(
            upload,
            bucket,
            path,
            KEY,
            cancelled=lambda: any(asked == operation for asked, _ in s3.requests),
            deadline=30,
        )


def test_a_killed_upload_is_tidied_up(s3, small_parts, bucket, make_file, tmp_path):
    path, journal = make_file(LARGE), Journal(tmp_path / "journal.jsonl")
    bucket.client.create_multipart_upload(Bucket="renders", Key=KEY)  # what a killed process leaves behind
    journal.begin(path, path.stat(), bucket.address, KEY)
    assert deliver(bucket, path, "another/key.mp4", journal).key == "another/key.mp4"
    assert_arrived(s3, "another/key.mp4", path)
    assert journal.find(path, path.stat(), bucket.address).sent


def test_presigned_links_open_without_keys_and_end(bucket):
    link = bucket.link(KEY, 60)
    assert "X-Amz-Expires=60" in link and "test-secret" not in link


def test_a_link_without_keys_is_refused_in_plain_words(connect, monkeypatch):
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="no key was found"):
        connect(access_key_id="", secret_access_key="").link(KEY, 60)


def test_threads_share_one_transfer_manager(bucket, monkeypatch):
    from s3transfer.manager import TransferManager

    made = TransferManager.__init__

    def slow(*args, **kwargs):
        time.sleep(0.1)
        made(*args, **kwargs)

    monkeypatch.setattr(TransferManager, "__init__", slow)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: bucket.transfers, range(8)))) == 1


@pytest.mark.parametrize(
    "message, told",
    [("Credential access key has length 3, should be 32", "access key id"), ("Part too small", "refused it")],
)
def test_an_invalid_argument_is_a_wrong_key_only_if_it_says_so(bucket, message, told):
    from botocore.exceptions import ClientError

    reply = {"Error": {"Code": "InvalidArgument", "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    assert told in explain(ClientError(reply, "PutObject"), bucket.profile)[1]


def test_the_log_has_the_details_of_the_unexpected(bucket, caplog):
    with pytest.raises(StorageError, match="The log has the details"), bucket.plain_errors("try"):
        raise RuntimeError("surprise")
    assert "surprise" in caplog.text
