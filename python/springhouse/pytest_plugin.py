"""The pytest plug-in: a fixture that computes the project's features from given rows.

Installed with the package. In a test below the project's folder::

    def test_an_hour_of_orders(springhouse_features):
        springhouse_features.check(
            {"orders": [{"at": "2026-01-01T11:30:00Z", "user": 1, "amount": 5.0}]},
            at="2026-01-01T12:00:00Z", entities={"user": 1}, expect={"spent_1h": 5.0})
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import FeatureTester

_SETTINGS_FILE = "springhouse.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the ini option `springhouse_project`."""
    parser.addini(
        "springhouse_project",
        "The Springhouse project's folder, relative to the ini file; found above the tests when left out.",
        default="",
    )


@pytest.fixture(scope="session")
def springhouse_features(pytestconfig: pytest.Config) -> FeatureTester:
    """Computes features of the project from given rows; see :class:`springhouse.testing.FeatureTester`."""
    # Loaded by the tests that use it: the plug-in itself costs nothing.
    from .testing import FeatureTester

    return FeatureTester(_project(pytestconfig))


def _project(config: pytest.Config) -> Path:
    if named := config.getini("springhouse_project"):
        return config.rootpath / str(named)
    start = config.rootpath
    for folder in (start, *start.parents):
        if (folder / _SETTINGS_FILE).exists():
            return folder
    pytest.fail(
        f"there is no {_SETTINGS_FILE} in {start} or above; "
        "set `springhouse_project` in pytest's ini file to the project's folder",
        pytrace=False,
    )
