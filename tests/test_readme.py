import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys, few_digits):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    exec("\n".join(blocks), {})
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert "Measure(name='accuracy'" in capsys.readouterr().out


def test_the_readme_is_short_and_its_commands_exist():
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    makefile = (README.parent / "Makefile").read_text()
    targets = re.findall(r"^make ([a-z]+)", text, re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_commands_of_the_readme_parse():
    from pluriform.cli.main import COMMANDS

    commands = re.findall(r"^pluriform (\S+)", README.read_text(), re.MULTILINE)
    assert commands
    assert set(commands) <= set(COMMANDS)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "docs/glossary.md", "docs/results.md", "LICENSE"])
def test_what_the_readme_names_is_there(name):
    assert (README.parent / name).is_file()


def test_every_record_and_every_figure_is_in_the_list_of_results():
    root = README.parent
    listed = root / "docs" / "results.md"
    links = {(listed.parent / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", listed.read_text())}
    assert all(link.exists() for link in links)
    records = {path.resolve() for folder in ("benchmarks", "reproductions") for path in (root / folder).glob("*.json")}
    figures = {path.resolve() for path in (root / "docs" / "figures").glob("*.png")}
    assert records | figures <= links
