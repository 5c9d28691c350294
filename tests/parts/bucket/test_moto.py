"""The same uploads against another S3 implementation, moto's server: nothing here is made for our own one."""

import logging

import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.bucket import day_facts
from steadydancer.bucket.client import MIB, Bucket, KeyTaken
from steadydancer.bucket.profiles import Profile
from steadydancer.bucket.upload import deliver, upload


@pytest.fixture(scope="module")
def moto_bucket():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {"region": "us-east-1", "access_key_id": "ID", "secret_access_key": "SECRET"}
    bucket = Bucket(Profile("moto", ("renders",), f"http://{host}:{port}", **known))
    bucket.client.create_bucket(Bucket="renders")
    yield bucket
    server.stop()


@pytest.mark.parametrize("size", [0, 3 * MIB, 120 * MIB])
def test_bytes_equal(moto_bucket, make_file, size):
    path = make_file(size)
    upload(moto_bucket, path, f"day/{size}.mp4")
    stored = moto_bucket.client.get_object(Bucket="renders", Key=f"day/{size}.mp4")["Body"].read()
    assert stored == path.read_bytes()
    assert upload(moto_bucket, path, f"day/{size}.mp4").was_there
    assert [item["Size"] for item in moto_bucket.list(f"day/{size}.mp4")] == [size]


@pytest.mark.parametrize("size", [MIB, 110 * MIB])
def test_nothing_is_overwritten(moto_bucket, make_file, size):
    first, second = make_file(size, "first.mp4"), make_file(size, "second.mp4")
    upload(moto_bucket, first, f"keep/{size}.mp4")
    with pytest.raises(KeyTaken):
        upload(moto_bucket, second, f"keep/{size}.mp4")
    assert deliver(moto_bucket, second, f"keep/{size}.mp4").key == f"keep/{size}-2.mp4"


def test_cancel_leaves_no_multipart(moto_bucket, make_file):
    polls = iter([False] * 3 + [True] * 100)
    with pytest.raises(Cancelled):
        upload(moto_bucket, make_file(400 * MIB), "cancelled.mp4", cancelled=lambda: next(polls))
    assert not moto_bucket.client.list_multipart_uploads(Bucket="renders").get("Uploads")
    assert moto_bucket.head("cancelled.mp4") is None


def test_day_facts(moto_bucket):
    day_facts.add(moto_bucket, {"facts/a.mp4": {"seed": 1}})
    day_facts.add(moto_bucket, {"facts/b.mp4": {"seed": 2}})
    assert moto_bucket.read_json("facts/metadata.json")[0] == {"a.mp4": {"seed": 1}, "b.mp4": {"seed": 2}}
