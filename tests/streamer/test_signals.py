"""The first signal counts, later ones do nothing, and everything is as before afterwards."""

import signal
import threading

import pytest

from edgehybrid.streamer.signals import heard_once


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_only_the_first_signal_is_heard(second: signal.Signals) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with heard_once():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(second)
        assert told == []
        signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_ends_the_process_by_itself_stays() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with heard_once():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_thread_may_stream_too() -> None:
    done = []

    def work() -> None:
        with heard_once():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
