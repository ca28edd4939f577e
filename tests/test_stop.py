"""Stop requests: a signal sets a flag, an insistent one ends the process, and handlers are given back."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from safa.stop import StopRequest


@pytest.fixture(autouse=True)
def own_handlers():
    """Whatever a test does, pytest gets its handlers back."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield former
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request(number):
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal_number == number


def test_handlers_are_given_back_afterwards_even_after_an_exception(own_handlers):
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert {number: signal.getsignal(number) for number in own_handlers} == own_handlers


def test_a_second_signal_at_once_is_the_same_request():
    """Ctrl-C under torchrun comes from the terminal and from torchrun."""
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested


def test_a_later_signal_ends_the_process_the_ordinary_way(monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(StopRequest, "ONE_REQUEST", 0.01)
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # the signal arrives within


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def enter() -> None:
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]
