"""One way to try again: how often, after how long, and whose wish comes first."""

import time

import pytest
from steadydancer.base.retry import RetryPolicy, TransientError
from steadydancer.loaders.download.errors import DownloadError, come_back


def test_retry_after_is_obeyed():
    policy = RetryPolicy()
    assert policy.delay(1, "7") == 7
    assert 0.5 <= policy.delay(1) <= 1.0
    assert 2.0 <= policy.delay(3) <= 4.0
    assert policy.delay(20) <= 60
    assert policy.delay(5000) <= 60, "a number too large for arithmetic"
    assert 8 < policy.delay(1, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 10))) <= 10
    assert policy.delay(1, "soon") <= 1.0


class Server:
    """Fails as often as it is told, then answers; `done` is what has arrived."""

    def __init__(self, failures: int, retry_after: str | None = None, step: int = 0):
        self.failures, self.retry_after, self.step = failures, retry_after, step
        self.asked = self.done = 0
        self.waits: list[float] = []

    def ask(self) -> str:
        self.asked += 1
        self.done += self.step
        if self.asked <= self.failures:
            raise TransientError("it is busy", self.retry_after)
        return "here"

    def run(self, policy: RetryPolicy, **options) -> str:
        def gave_up(err, failures, delay):
            return come_back(delay) or DownloadError(f"{err}, {failures}")

        return policy.run(self.ask, gave_up, lambda delay, err: self.waits.append(delay), **options)


def test_it_is_tried_again_and_given_up():
    server = Server(2)
    assert server.run(RetryPolicy(attempts=3)) == "here" and len(server.waits) == 2
    server = Server(3)
    with pytest.raises(DownloadError, match="it is busy, 3"):
        server.run(RetryPolicy(attempts=3))
    assert server.asked == 3 and len(server.waits) == 2


def test_what_arrives_renews_the_attempts():
    server = Server(50, step=1)
    assert server.run(RetryPolicy(attempts=2), progress=lambda: server.done) == "here"


def test_an_error_may_have_fewer_attempts():
    server = Server(9)
    with pytest.raises(DownloadError):
        server.run(RetryPolicy(), attempts=lambda err: 2)
    assert server.asked == 2


def test_nobody_waits_for_minutes():
    server = Server(1, retry_after="600")
    with pytest.raises(DownloadError, match="asks to come back in 10 minutes"):
        server.run(RetryPolicy())
    assert server.asked == 1 and not server.waits
    assert Server(1, retry_after="300").run(RetryPolicy()) == "here"


def test_another_error_is_not_repeated():
    with pytest.raises(ZeroDivisionError):
        RetryPolicy().run(lambda: 1 / 0, None, None)
