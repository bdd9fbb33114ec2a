"""A small project, and its store through both doors: in this process, and behind the built program's server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shop import DEFINITIONS, ORDERS, PROFILES, Server

import springhouse


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with definitions and history; nothing is applied."""
    (tmp_path / "features").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "springhouse.yaml").write_text("project: shop\n")
    (tmp_path / "features" / "shop.yaml").write_text(DEFINITIONS)
    (tmp_path / "data" / "orders.csv").write_text(ORDERS)
    (tmp_path / "data" / "profiles.csv").write_text(PROFILES)
    return tmp_path


@pytest.fixture
def server(project: Path) -> Iterator[Server]:
    """The project applied, loaded and served by the built program."""
    with springhouse.open(project) as store:
        store.apply()
        store.materialize(progress=False)
    served = Server(project)
    yield served
    served.stop()


@pytest.fixture(params=["embedded", "server"])
def store(request: pytest.FixtureRequest, project: Path) -> Iterator[springhouse.Store]:
    """The store of the applied and loaded project, through both doors."""
    if request.param == "server":
        with springhouse.connect(request.getfixturevalue("server").address) as connected:
            yield connected
    else:
        with springhouse.open(project) as opened:
            opened.apply()
            opened.materialize(progress=False)
            yield opened
