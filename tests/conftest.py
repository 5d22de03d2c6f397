"""Fixtures of the whole suite; shape annotations are checked by beartype in the test run only."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # Two workers share two cores; idle threads of one would stall the other.

import pytest
from jaxtyping import install_import_hook

signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells start background jobs with Ctrl-C ignored.
annotations_checked = install_import_hook("pluriform", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it skip by name without it."""
    folder = os.environ.get("PLURIFORM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PLURIFORM_DATA does not name the folder of real data sets")
    return Path(folder)
