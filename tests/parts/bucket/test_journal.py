"""The journal saves work and stops none: damaged, emptied, foreign, unwritable, it costs a comparison with the bucket."""

import errno
import os
import signal

import pytest
from steadydancer.bucket.journal import Journal
from steadydancer.bucket.sync import Sync
from steadydancer.bucket.upload import deliver

BUCKET = "host/renders"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "user" / "r2_journal.jsonl"


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "output" / "a.png"
    file.parent.mkdir()
    file.write_bytes(b"x" * 100)
    os.utime(file, ns=(17 * 10**17, 17 * 10**17))
    return file


def known(path, file, bucket=BUCKET):
    return Journal(path).find(file, file.stat(), bucket)


def row(path, file, **changes) -> bytes:
    """The row that a journal writes for a file that arrived, with changes."""
    import json

    writer = Journal(path.with_name("other.jsonl"))
    writer.finish(file, file.stat(), BUCKET, "a.png")
    return json.dumps(json.loads(writer.path.read_bytes()) | changes).encode()


def test_a_row_is_known_to_others(path, file):
    Journal(path).begin(file, file.stat(), BUCKET, "day/a.png")
    assert known(path, file).key == "day/a.png" and not known(path, file).sent
    Journal(path).finish(file, file.stat(), BUCKET, "day/a.png")
    assert known(path, file).sent and known(path, file, "host/other") is None


def test_a_file_touched_since_is_not_known_as_sent(path, file):
    """Size and modification time can be made equal; the change time cannot."""
    before = file.stat()
    Journal(path).finish(file, before, BUCKET, "a.png")
    file.write_bytes(b"y" * 100)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    entry = known(path, file)
    assert entry.key == "a.png" and not entry.sent


DAMAGED = {
    "half a row": b'{"path": "/x", "si',
    "no JSON": b"\xff\xfe\x00garbage",
    "zeros of a crash": b"\0" * 4096,
    "a list": b"[1, 2]",
    "a number": b"17",
    "null": b"null",
    "too deep": b"[" * 200_000,
    "a long number": b"9" * 10_000,
    "no key": b'{"path": "/x", "size": 1, "time": 1, "bucket": "b", "sent": true}',
    "wrong kinds": b'{"path": ["/x"], "size": {}, "time": null, "bucket": 3, "key": [], "sent": "yes"}',
    "a service of a wrong kind": b'{"bucket": "host/renders", "keeps_conditions": "yes"}',
    "lines of Windows": b'{"path": "/y", "size": 1, "time": 1, "bucket": "b", "key": "k", "sent": true}\r',
    "half letters": b'{"path": "\\ud800", "size": 1, "time": 1, "bucket": "b", "key": "\\ud800", "sent": true}',
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_damaged_row_costs_only_itself(path, file, damage, ending):
    path.parent.mkdir()
    path.write_bytes(row(path, file) + b"\n" + damage + ending)
    assert known(path, file).sent
    Journal(path).finish(file, file.stat(), "host/second", "b.png")
    assert known(path, file).sent and known(path, file, "host/second").key == "b.png"
    assert known(path, file) and Journal(path).keeps_conditions(BUCKET) is None


def test_a_row_behind_zeros_is_read(path, file):
    path.parent.mkdir()
    path.write_bytes(b"\0" * 100 + row(path, file) + b"\n")
    assert known(path, file).sent


@pytest.mark.parametrize("sent", ["true", 1, None, "yes", {}])
def test_only_what_we_write_counts_as_sent(path, file, sent):
    path.parent.mkdir()
    path.write_bytes(row(path, file, sent=sent) + b"\n")
    assert not known(path, file).sent


@pytest.mark.parametrize("how", ["emptied", "replaced", "deleted"])
def test_a_journal_that_is_emptied_goes_on(path, file, how):
    journal = Journal(path)
    for number in range(9):
        journal.begin(file, file.stat(), f"host/{number}", "a.png")
    assert journal.find(file, file.stat(), "host/8")
    if how == "emptied":
        os.truncate(path, 0)
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(b"")
    Journal(path).finish(file, file.stat(), BUCKET, "new.png")
    assert journal.find(file, file.stat(), BUCKET).key == "new.png"


def full_disk(path, monkeypatch):
    import resource

    path.parent.mkdir()
    path.write_bytes(b"{}\n" * 400)  # as large as the limit that follows
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def end():
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1250, limits[1]))
    return end


def a_folder(path, monkeypatch):
    path.mkdir(parents=True)


def a_pipe(path, monkeypatch):
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def no_folder(path, monkeypatch):
    path.parent.write_bytes(b"a file where the folder should be")


def refused(code):
    def make(path, monkeypatch):
        whole = open

        def refusing(file, mode="r", *more, **options):
            if file == path and "a" in mode:
                raise OSError(code, os.strerror(code), str(file))
            return whole(file, mode, *more, **options)

        monkeypatch.setattr("steadydancer.bucket.journal.open", refusing, raising=False)

    return make


TROUBLE = {
    "a full disk": full_disk,
    "no space": refused(errno.ENOSPC),
    "read-only": refused(errno.EROFS),
    "not ours": refused(errno.EACCES),
    "over quota": refused(errno.EDQUOT),
    "a folder": a_folder,
    "a pipe": a_pipe,
    "a file for a folder": no_folder,
}


@pytest.mark.skipif(os.name != "posix", reason="the system has no limit for a file's size")
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_journal_trouble_is_told_once_and_stops_no_upload(s3, bucket, path, file, trouble, monkeypatch, caplog):
    second = file.with_name("b.png")
    second.write_bytes(b"y" * 100)
    os.utime(second, ns=(17 * 10**17, 17 * 10**17))
    # The server of the test must be able to write: it keeps objects of 100 bytes.
    end = trouble(path, monkeypatch) or (lambda: None)
    try:
        journal = Journal(path)
        with journal.claim(file) as ours:
            assert ours
            deliver(bucket, file, "node/a.png", journal)
        sync = Sync(file.parent, bucket, journal)
        assert (sync.round(), sync.round()) == (1, 0)  # what this process sent it knows
        assert s3.body("node/a.png") == b"x" * 100
        assert sorted(s3.body(key)[:1] for key in s3.objects) == [b"x", b"y"]
        assert "Files are sent all the same" in journal.problem and str(path.parent) not in journal.problem
        told = [record for record in caplog.records if "journal" in record.getMessage()]
        assert len([record for record in told if "written" in record.getMessage()]) == 1
        # After a restart without it: compared, and not sent twice.
        assert Sync(file.parent, bucket, Journal(path)).round() >= 1
        assert sum(body == b"y" * 100 for body in map(s3.body, s3.objects)) == 1
    finally:
        end()


@pytest.mark.parametrize(
    "key", ["../../up.png", "elsewhere/a.png", "pod", "a\\b", "pod/\n.png", "pod/" + "x" * 2000, ""]
)
def test_a_foreign_rows_key_is_not_used(s3, connect, path, file, key):
    """A folder from somewhere else may bring its journal along: what it says of keys stays below our prefix."""
    bucket = connect(prefix="pod")
    journal = Journal(path)
    journal.begin(file, file.stat(), bucket.address, key)
    if key:
        bucket.client.create_multipart_upload(Bucket="renders", Key=key[:1000])
    Sync(file.parent, bucket, Journal(path)).round()
    assert [name.startswith("pod/") and name.endswith("/a.png") for name in s3.objects] == [True]
    assert len(s3.uploads) == bool(key), "another's unfinished upload was removed"


def test_a_foreign_journal_that_says_sent_is_not_believed(s3, bucket, path, file):
    """It was written for the same name, size and time, elsewhere."""
    path.parent.mkdir()
    path.write_bytes(row(path, file, bucket=bucket.address, changed=1234) + b"\n")
    assert Sync(file.parent, bucket, Journal(path)).round() == 1
    assert [s3.body(key) for key in s3.objects] == [b"x" * 100]
