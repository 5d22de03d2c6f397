import pytest

from pluriform.report.digits import Format, column_format, format_of, plain, signed, tick


@pytest.mark.parametrize(
    ("name", "unit", "value", "text"),
    [
        ("accuracy", "", 0.98613, "98.6\u202f%"),
        ("coverage", "", 1.0, "100.0\u202f%"),
        ("ece", "", 0.01234, "0.012"),
        ("ece", "", 0.00034, "0.00034"),
        ("nll", "", -0.3301, "\u22120.330"),
        ("parameters", "parameters", 61706, "61.7\u202fk"),
        ("macs", "MAC", 999_950, "1.00\u202fM\u202fMAC"),
        ("parameters", "parameters", 0, "0"),
        ("latency", "ms", 0.0612, "0.0612\u202fms"),
        ("latency", "ms", 123.4, "123\u202fms"),
        ("training_seconds", "s", 12345.0, "12\u202f345\u202fs"),
        ("latency", "ms", float("nan"), "\u2013"),
        ("latency", "ms", "broken", "\u2013"),
        ("latency", "ms", 3e-9, "3.00e-09\u202fms"),
    ],
)
def test_figures_are_written_with_sensible_digits(name, unit, value, text):
    assert plain(name, unit, value) == text


def test_a_column_shares_its_decimals():
    form = format_of("aurc", "", [0.0019, 0.0010, 0.0006])
    assert [form(v) for v in (0.0019, 0.0010, 0.0006)] == ["0.0019", "0.0010", "0.0006"]


def test_a_column_of_very_small_scores_is_in_thousandths():
    form = column_format("aurc", "", [0.00019, 0.00074, 0.00005])
    assert [form(v) for v in (0.00019, 0.00074, 0.00005)] == ["0.19", "0.74", "0.05"]
    assert column_format("ece", "", [0.0072, 0.0131]) == Format("score", 3)
    assert column_format("latency", "ms", [0.00001]) == Format("quantity")


def test_intervals_of_negative_figures_use_a_word():
    form = Format("score")
    assert form.interval(0.1, 0.2) == "0.100\u20130.200"
    assert form.interval(-0.2, -0.1) == "\u22120.200 to \u22120.100"
    assert form.interval(None, 0.2) == form.interval(0.1, float("inf")) == ""


def test_ticks_have_no_closing_zeros():
    assert [tick(v) for v in (0.05, 20.0, 5000.0, 2e6)] == ["0.05", "20", "5\u202fk", "2\u202fM"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.345, "2.35"),
        (-0.001, "0.00"),
        (-9.994, "\u22129.99"),
        (12.34, "12.3"),
        (-999.94, "\u2212999.9"),
        (12345.6, "12346"),
    ],
)
def test_scores_without_a_natural_zero(value, text):
    assert signed(value) == text
