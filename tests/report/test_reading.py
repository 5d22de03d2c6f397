import json

import pytest

from pluriform.errors import CorruptFileError, RunError
from pluriform.report.reading import read_results


def test_records_json_files_and_folders_read_alike(results, tmp_path):
    one = results[0]
    path = one.save(tmp_path / "run" / "result.json")
    assert read_results([one, one.to_json(), path, str(path), path.parent]) == [one] * 5
    assert read_results(one) == read_results(path) == [one]


def test_a_folder_of_a_comparison_gives_all_its_results(results, tmp_path):
    for place, one in enumerate(results[:3]):
        one.save(tmp_path / "compared" / "results" / f"{place}.json")
    assert read_results([results[4], tmp_path / "compared"]) == [results[4], *results[:3]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RunError, match=r"expected a folder with result.json or results/; got none of these \(.*empty\)"
    ):
        read_results(tmp_path / "empty")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"expected a result file; got no such file \(.*nothing\.json\)"):
        read_results([tmp_path / "nothing.json"])


@pytest.mark.parametrize("content", ["{", "[]", '{"form": "A"}', "\x00", json.dumps({"measures": 3})])
def test_a_corrupt_file_is_named(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(CorruptFileError, match=r"expected the .* To fix: "):
        read_results([path])
