import os
import signal
from threading import Thread

import pytest

from featx.training.stopping import hold_signals


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def raising():
    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGTERM, stop)
    yield stop
    signal.signal(signal.SIGTERM, before)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_waits_and_is_delivered():
    with hold_signals() as held:
        terminate()
        assert held.waiting == signal.SIGTERM
        with pytest.raises(Stop):
            held.deliver()
        assert held.waiting is None


def test_the_second_acts_at_once():
    with hold_signals() as held:
        terminate()
        with pytest.raises(Stop):
            terminate()
        held.waiting = None


def test_what_waits_acts_at_the_end_of_the_block(raising):
    with pytest.raises(Stop), hold_signals():
        terminate()
    assert signal.getsignal(signal.SIGTERM) is raising


def test_goes_on_where_a_handler_does_not_raise():
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with hold_signals() as held:
        terminate()
        assert seen == []
        held.deliver()
        assert seen == [signal.SIGTERM]
        terminate()
        assert held.waiting == signal.SIGTERM
    assert len(seen) == 2


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with hold_signals() as held:
        terminate()
        assert held.waiting is None


def test_other_threads_hold_nothing():
    seen = []

    def work():
        with hold_signals() as held:
            seen.append(held.waiting)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
