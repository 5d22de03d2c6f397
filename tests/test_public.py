import subprocess
import sys
import time

import pytest

import pluriform as pf


def test_all_is_sorted_closed_and_importable():
    assert list(pf.__all__) == sorted(pf.__all__)
    assert len(pf.__all__) <= 41
    assert dir(pf) == sorted(pf.__all__)
    for name in pf.__all__:
        assert getattr(pf, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        pf.nonsense  # noqa: B018


def test_import_stays_light():
    heavy = ["plotly", "ray", "numba", "lightning", "lightning_fabric", "torch", "sklearn", "pandas", "torchmetrics"]
    code = f"import sys, pluriform; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_fitting_does_not_load_what_it_does_not_need():
    code = (
        "import sys, pluriform as pf\n"
        "pf.Training, pf.InfiniteWidth, pf.load, pf.trace, pf.evaluate, pf.write_report\n"
        "print([name for name in ['plotly', 'ray', 'numba', 'torchmetrics', 'pandas'] if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_is_quick():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        text = subprocess.check_output([sys.executable, "-m", "pluriform.cli.main", "--help"], text=True)
        seconds.append(time.perf_counter() - start)
    assert "pluriform compare digits" in text
    assert min(seconds) < 1.5
