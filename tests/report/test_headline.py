from pluriform.report.headline import headline, joined, summary
from pluriform.report.ranking import columns_of
from pluriform.report.row import rows_of


def test_the_sentence_names_each_winner_once(results):
    rows = rows_of(results)
    assert headline(rows) == "Five forms of mlp on digits"
    lede, close, missing = summary(rows, columns_of(rows))
    assert lede == (
        "InfiniteWidth is the most accurate (98.3\u202f%) and the best at telling outliers apart "
        "(AUROC 0.995 against mnist); DeepEnsemble the best calibrated (ECE 0.013); AdversarialTraining "
        "the most robust (84.0\u202f% at eps 0.1); Training the fastest (0.0610\u202fms)."
    )
    assert close.startswith("Too close to call, as intervals overlap with the best: accuracy, with Training, Deep")
    assert missing == "Without figures: WideThenNarrow (not applicable)."


def test_regression_is_praised_for_error_and_likelihood(regression_results):
    rows = rows_of(regression_results)
    assert summary(rows, columns_of(rows))[0] == (
        "InfiniteWidth is the closest to the targets (RMSE 0.170) and the best in likelihood (NLL \u22120.330)."
    )


def test_one_form_has_nobody_to_beat(results):
    rows = rows_of(results[:1])
    assert headline(rows) == "One form of mlp on digits"
    assert summary(rows, columns_of(rows)) == []


def test_joined():
    assert [joined(list(s)) for s in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
