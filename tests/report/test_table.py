import io

import pytest
from rich.console import Console

from pluriform.errors import ConfigError
from pluriform.report.table import comparison_table
from pluriform.result import Measure, Result


def printed(results, width):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(comparison_table(results, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_it_fits_the_terminal_and_keeps_the_main_figure(results, width):
    text = printed(results, width)
    assert max(map(len, text.splitlines())) <= width
    assert "● 98.3" in text
    assert "…" not in text
    assert "not applicable" in text


def test_wide_terminals_show_more(results):
    assert "Robust" in printed(results, 140)
    assert "Robust" not in printed(results, 60)
    assert "more columns on the page or in a wider terminal" in " ".join(printed(results, 60).split())


def test_reasons_stand_below(results):
    text = printed(results, 100)
    assert "WideThenNarrow: not applicable. expected Conv2d or Linear layers" in text
    assert text.index("AdversarialTraining") < text.index("WideThenNarrow: not applicable")


def test_markup_in_names_is_text():
    text = printed([Result("[red]A[/red]", {}, "[b]", {"name": "[i]d"}, 0, measures=(Measure("accuracy", 0.5),))], 100)
    assert "[red]A[/red]" in text
    assert "[i]d" in text


def test_all_failed(results):
    assert "not applicable" in printed(results[-1:], 80)


def test_no_results():
    with pytest.raises(ConfigError, match="expected at least one result; got none"):
        comparison_table([])
