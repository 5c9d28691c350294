"""One way to stop: what blocks in a library is left behind, and its end comes to nobody."""

import threading

import pytest
from steadydancer.base.cancel import Cancelled, run_cancellable, stop_if
from support.work import returns


def test_the_result_and_the_error_come_back():
    assert run_cancellable(lambda: 7, lambda: False) == 7
    with pytest.raises(KeyError, match="'x'"):
        run_cancellable(lambda: {}["x"], lambda: False)


def test_what_blocks_is_left_behind():
    blocked, ended = threading.Event(), threading.Event()

    def work():
        blocked.wait()
        ended.set()
        raise OSError("nobody hears this")

    def wait():
        with pytest.raises(Cancelled):
            run_cancellable(work, lambda: True)

    returns(wait)
    assert not ended.is_set()
    blocked.set()
    assert ended.wait(10)


def test_it_is_asked_in_the_calling_thread_and_may_raise():
    asked, go_on = [], threading.Event()

    def cancelled():
        asked.append(threading.current_thread())
        if len(asked) == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_cancellable(go_on.wait, cancelled)
    go_on.set()
    assert asked == [threading.current_thread()] * 3


def test_stop_if():
    stop_if(lambda: False)
    with pytest.raises(Cancelled):
        stop_if(lambda: True)
