import os
import signal

import pytest

from pluriform.training.interrupt import deferred_interrupt


def test_the_first_is_a_flag_and_the_second_raises():
    with deferred_interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_stays():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with deferred_interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        assert seen == [1]
        assert not interrupt.requested
    finally:
        signal.signal(signal.SIGINT, before)
