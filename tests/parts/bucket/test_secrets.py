"""ComfyUI serves its log over HTTP: at its most talkative it holds no token, no signature and no link."""

import logging

import pytest
from steadydancer.bucket.client import TALKATIVE, StorageError
from steadydancer.bucket.upload import upload
from support.s3_server import Fault

TOKEN = "canary-session-token-5d1f"


@pytest.fixture
def talkative(caplog):
    """As `--verbose DEBUG`: whatever logger says whatever."""
    names = [*TALKATIVE, "botocore.auth", "botocore.endpoint", "urllib3.connectionpool"]
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    yield caplog
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize("fault", [None, "403", "500", "reset"])
def test_the_debug_log_of_the_libraries_holds_no_secret(s3, connect, make_file, talkative, fault):
    bucket = connect(session_token=TOKEN)
    if fault:
        s3.faults.append(Fault(fault, "PutObject", 99))
        with pytest.raises(StorageError):
            upload(bucket, make_file(1000), "a.mp4")
    else:
        upload(bucket, make_file(1000), "a.mp4")
        upload(bucket, make_file(120 * 1024 * 1024), "large.mp4")
    link = bucket.link("a.mp4", 60)
    signature = link.split("X-Amz-Signature=")[1]
    logging.getLogger("something.else").debug("is still heard")
    assert "is still heard" in talkative.text
    for secret in (TOKEN, s3.secret, signature, "X-Amz-Signature", "AWS4-HMAC-SHA256", "x-amz-security-token"):
        assert secret.lower() not in talkative.text.lower()


def test_without_the_silence_it_would_hold_them(s3, connect, make_file, talkative):
    bucket = connect(session_token=TOKEN)
    assert bucket.client
    logging.getLogger("botocore").setLevel(logging.NOTSET)
    logging.getLogger("botocore.endpoint").setLevel(logging.DEBUG)
    upload(bucket, make_file(1000), "a.mp4")
    assert TOKEN in talkative.text
