"""Where the pytest plug-in looks for the project."""

from __future__ import annotations

import pytest
from shop import DEFINITIONS

pytest_plugins = ["pytester"]

TEST = """
ROWS = {"orders": [{"at": "2026-01-01T11:30:00Z", "order": "a", "user": 1, "amount": 5.0}]}

def test_right(springhouse_features):
    springhouse_features.check(ROWS, at="2026-01-01T12:00:00Z", entities={"user": 1}, expect={"orders_1h": 1})
"""


def write_project(pytester: pytest.Pytester, folder: str) -> None:
    features = pytester.path / folder / "features"
    features.mkdir(parents=True)
    (features.parent / "springhouse.yaml").write_text("project: shop\n")
    (features / "shop.yaml").write_text(DEFINITIONS)


def test_the_ini_option_names_the_project(pytester: pytest.Pytester) -> None:
    write_project(pytester, "deep/shop")
    pytester.makeini("[pytest]\nspringhouse_project = deep/shop\n")
    pytester.makepyfile(TEST)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_project_may_lie_above_the_tests(pytester: pytest.Pytester) -> None:
    write_project(pytester, ".")
    tests = pytester.mkdir("tests")
    (tests / "pytest.ini").write_text("[pytest]\n")
    (tests / "test_features.py").write_text(TEST)
    pytester.runpytest_subprocess("--rootdir=tests", "-c", "tests/pytest.ini", "tests").assert_outcomes(passed=1)


def test_a_project_with_mistakes_is_told_with_them(pytester: pytest.Pytester) -> None:
    write_project(pytester, ".")
    (pytester.path / "features" / "wrong.yaml").write_text("feature_views: {broken: {entity: nobody}}\n")
    pytester.makepyfile(TEST)
    result = pytester.runpytest_subprocess()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*features/wrong.yaml*"])


def test_a_suite_that_does_not_use_the_fixture_needs_no_project(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\ndef test_it(): assert 'springhouse.testing' not in sys.modules")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
