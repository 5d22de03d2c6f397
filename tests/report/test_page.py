import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pluriform.errors import ConfigError
from pluriform.report.page import render, write_report
from pluriform.result import Curve, Measure, Result

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}<!--\u2028&amp;"


class Elements(HTMLParser):
    """Every tag with its attributes, and the text of each script."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


def own_part(page):
    """The page without plotly.js."""
    longest = max(re.findall(r"<script>.*?</script>", page, re.DOTALL), key=len)
    return page.replace(longest, "")


def embedded(page):
    return json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_is_written_in_one_step(results, tmp_path):
    path = tmp_path / "deep" / "report.html"
    assert write_report(results, path) == path
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    before = path.read_bytes()
    with pytest.raises(ConfigError):
        write_report([], path)
    assert path.read_bytes() == before


def test_no_results_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"expected at least one result; got none .* To fix: evaluate a form first"):
        write_report([], tmp_path / "report.html")


def test_the_page_names_nothing_outside_itself(results):
    page = own_part(render(results))
    for tag, attributes in Elements(page).tags:
        for name in ("src", "href", "action", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, target[:80])
    assert "url(" not in page
    assert "@import" not in page
    assert len(page) < 1_000_000


def test_the_policy_names_exactly_the_scripts_of_the_page(results):
    page = render(results)
    policy = next(a["content"] for t, a in Elements(own_part(page)).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|unsafe-eval|\*", policy)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert sorted(re.findall(r"'sha256-(.*?)'", policy)) == sorted(hashes)


def test_plotly_is_there_once(results):
    assert render(results).count("plotly.js v") == 1


def test_all_figures_are_there(results, regression_results):
    names = {key.split("-", 1)[1] for key in embedded(render(results))}
    task = {"reliability", "outliers", "robustness", "corruption", "cost", "risk-coverage"}
    assert names == task | {"diversity", "detection"}
    assert set(embedded(render(regression_results))) == {"c0-bands", "c0-cost", "c0-diversity"}


def test_two_data_sets_are_two_chapters_and_never_ranked_together(results, regression_results):
    page = own_part(render(results + regression_results))
    assert "Five forms of mlp on digits" in page
    assert "Three forms of mlp on sine" in page
    assert page.count('class="lede"') == 2
    identifiers = [a["id"] for _, a in Elements(page).tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))


def test_the_download_is_the_results(results):
    href = next(a["href"] for t, a in Elements(own_part(render(results))).tags if "download" in a)
    value = json.loads(base64.b64decode(href.removeprefix("data:application/json;base64,")))
    assert [Result.from_json(item).form for item in value] == [r.form for r in results]
    assert value == json.loads(json.dumps([r.to_json() for r in results]))


def test_hostile_names_stay_text(results):
    evil = replace(
        results[0],
        form=HOSTILE,
        network=HOSTILE,
        data={"name": HOSTILE, HOSTILE: HOSTILE},
        method={HOSTILE: HOSTILE},
        protocol={HOSTILE: {HOSTILE: HOSTILE}},
        measures=tuple(
            replace(m, condition={k: HOSTILE if isinstance(v, str) else v for k, v in m.condition.items()})
            for m in results[0].measures
        ),
        curves=tuple(
            replace(c, condition={k: HOSTILE if isinstance(v, str) else v for k, v in c.condition.items()})
            for c in results[0].curves
        ),
    )
    failed = replace(evil, form=HOSTILE + "2", status="failed", reason=HOSTILE, measures=(), curves=())
    page = own_part(render([evil, failed]))
    clean = own_part(
        render([results[0], replace(results[0], form="B", status="failed", reason="x", measures=(), curves=())])
    )
    found, expected = Elements(page), Elements(clean)
    assert {t for t, _ in found.tags} == {t for t, _ in expected.tags}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert len(found.scripts) == len(expected.scripts) == 2
    assert "<script>alert" not in page
    assert "7*7" in page
    for view in embedded(page)["c0-cost"]:
        assert all("<" not in a["text"] for a in view["plots"][0]["layout"]["annotations"])


def test_numbers_that_are_none_do_not_break_the_page():
    measures = (
        Measure("accuracy", float("nan")),
        Measure("nll", float("inf")),
        Measure("novel_measure", 3.0, "furlong"),
    )
    curves = (
        Curve("reliability", {"confidence": [0.1, float("nan")], "accuracy": [0.2, 0.3], "count": [3.0, 0.0]}),
        Curve("risk_coverage", {"coverage": [], "risk": []}),
        Curve("score_histogram", {}, {"outliers": "o", "score": "s"}),
        Curve("robustness", {"eps": [0.0], "accuracy": [float("nan")]}, {}),
        Curve("predictive_band", {"x": []}),
        Curve("novel_curve", {"a": [1.0]}),
    )
    page = render([Result("A", {"x": float("nan")}, "", {}, 0, measures=measures, curves=curves)])
    assert "novel measure" in page
    assert "furlong" in page
    assert "NaN" not in own_part(page)
    embedded(page)


def test_a_failed_form_is_a_row_that_says_why(results):
    page = own_part(render(results))
    assert "Not applicable.</strong> Expected Conv2d or Linear layers; got one Opaque node" in page


def test_only_failures_still_make_a_page(results):
    page = own_part(render(results[-1:]))
    assert "One form of mlp on digits" in page
    assert "Not applicable." in page


def test_nothing_here_imports_torch(tmp_path):
    code = (
        "import sys\nfrom pluriform.report.page import write_report\n"
        "from pluriform.report.table import comparison_table\n"
        "from pluriform.result import Measure, Result\n"
        "assert 'plotly' not in sys.modules and 'rich' not in sys.modules and 'jinja2' not in sys.modules\n"
        "r = Result('A', {}, 'mlp', {'name': 'digits'}, 0, measures=(Measure('accuracy', 0.5),))\n"
        f"write_report([r], {str(tmp_path / 'r.html')!r})\ncomparison_table([r])\n"
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
