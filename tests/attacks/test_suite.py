"""Suites: the published order and budgets, and what stands in their place for few classes."""

import pytest

from pluriform.attacks.suite import Member, Suite, auto_attack_suite
from pluriform.errors import ConfigError


def methods(suite):
    return [member.method for member in suite.members]


def test_the_published_suites():
    standard = auto_attack_suite(10, "linf")
    assert methods(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert [dict(member.options) for member in standard.members] == [{"steps": 100}] * 3 + [{"queries": 5000}]
    assert standard.note == ""
    plus = auto_attack_suite(10, "l2", "plus")
    assert methods(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [member.options.get("restarts", 1) for member in plus.members] == [5, 5, 5, 1, 1, 1]
    rand = auto_attack_suite(10, "linf", "rand")
    assert methods(rand) == ["apgd-ce", "apgd-dlr"]
    assert {member.options["eot"] for member in rand.members} == {20}


@pytest.mark.parametrize(
    ("classes", "expected", "note"),
    [
        (4, ["apgd-ce", "apgd-t", "fab-t", "square"], ""),
        (3, ["apgd-ce", "apgd-dlr", "fab", "square"], "3 classes: apgd-dlr for apgd-t; fab for fab-t"),
        (2, ["apgd-ce", "fab", "square"], "2 classes: without apgd-t; fab for fab-t"),
    ],
)
def test_few_classes_are_handled_and_said(classes, expected, note):
    suite = auto_attack_suite(classes, "linf")
    assert (methods(suite), suite.note) == (expected, note)


def test_nothing_stands_in_twice():
    assert methods(auto_attack_suite(3, "linf", "plus")) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-dlr", "fab"]
    assert methods(auto_attack_suite(2, "linf", "rand")) == ["apgd-ce"]


def test_l1_has_budgets_of_its_own_and_no_square():
    suite = auto_attack_suite(10, "l1")
    assert [(member.method, dict(member.options)) for member in suite.members] == [
        ("apgd-ce", {"steps": 100, "restarts": 5}),
        ("apgd-t", {"steps": 100, "targets": 5}),
        ("fab-t", {"steps": 100}),
    ]
    assert dict(auto_attack_suite(3, "l1").members[1].options) == {"steps": 100}
    assert suite.note == "l1: without square"


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="at least 2 classes and a kind"):
        auto_attack_suite(1, "linf")


def test_a_suite_has_members():
    with pytest.raises(ConfigError, match="at least one attack"):
        Suite("empty", ())
    assert Suite("own", (Member("fgsm"),)).members[0].options == {}
