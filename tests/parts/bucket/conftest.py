"""A strict S3 server per test, and the two ways to reach a bucket that the tests need."""

import os

import pytest
from steadydancer.bucket.client import Bucket
from steadydancer.bucket.profiles import Profile
from support.s3_server import StrictS3


@pytest.fixture
def s3(tmp_path):
    with StrictS3(tmp_path / "s3").running() as server:
        yield server


@pytest.fixture
def connect(s3, monkeypatch):
    """connect(**changes) → a Bucket at the strict server; retries wait a hundredth of what they do in life."""
    import botocore.retries.standard as standard

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda self, context: 0.02)

    def connect(**changes):
        known = {
            "name": "test",
            "buckets": ("renders",),
            "endpoint": s3.endpoint,
            "access_key_id": s3.key_id,
            "secret_access_key": s3.secret,
        }
        return Bucket(Profile(**{**known, **changes}))

    return connect


@pytest.fixture
def bucket(connect):
    return connect()


@pytest.fixture
def make_file(tmp_path):
    """make_file(size, name) → a file of random bytes, repeated beyond 8 MiB."""

    def make(size: int, name: str = "clip.mp4"):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        block = os.urandom(min(size, 8 * 1024 * 1024) or 1)
        with path.open("wb") as file:
            written = 0
            while written < size:
                written += file.write(block[: size - written])
        return path

    return make
