"""Features of given rows: as serving answers, and as a training set says; and the pytest plug-in."""

from __future__ import annotations

import os
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from shop import DEFINITIONS

import springhouse
from springhouse.testing import FeatureTester, known

pytest_plugins = ["pytester"]

NOON = datetime(2026, 1, 10, 12, tzinfo=timezone.utc)
SEED = int(os.environ.get("SPRINGHOUSE_TEST_SEED", "1"))


def order(seconds_before: float, amount: float | None = 1.0, user: int = 1, kind: str | None = None) -> dict[str, Any]:
    at = NOON - timedelta(seconds=seconds_before)
    return {"at": at, "order": f"{user}-{seconds_before}", "user": user, "amount": amount, "kind": kind}


def test_windows_are_exact_at_their_bounds(project: Path) -> None:
    tested = FeatureTester(project)
    rows = {"orders": [order(3600, 10.0), order(3661, 20.0), order(0, 40.0), order(0.000001, 80.0), order(-60, 160.0)]}
    # The window of an hour has a hop of a minute: its tail is at 11:00:00; an event is not among its own features.
    tested.check(rows, at=NOON, entities={"user": 1}, expect={"orders_1h": 2, "amount_sum_1h": 90.0})
    tested.check(rows, at=NOON, entities={"user": 1}, expect={"orders_lifetime": 3, "amount_sum_lifetime": 110.0})


def test_tables_defaults_and_statuses(project: Path) -> None:
    rows = {"profiles": [{"at": NOON - timedelta(days=1), "user": 1, "city": "Köln"}]}
    FeatureTester(project).check(
        rows,
        at=NOON,
        entities={"user": [1, 2]},
        expect={"profile:city": ["Köln", "nowhere"], "profile:score": [None, None], "orders_1h": [0, 0]},
        statuses={"profile:city": ["fresh", "missing"], "profile:score": ["null", "missing"]},
    )


def test_request_views_and_services(project: Path) -> None:
    tested = FeatureTester(project)
    rows = {"orders": [order(60, 10.0), order(120, 20.5)]}
    tested.check(rows, at=NOON, entities={"user": 1}, request={"basket": 20.25}, expect={"basket_to_usual": 5.0})
    answer = tested.features(rows, at=NOON, features="checkout", entities={"user": 1}, request={"basket": 1.0})
    assert answer["orders_1h"] == [2] and answer.at == NOON


def test_events_of_one_id_count_once_and_tables_are_rows_too(project: Path) -> None:
    rows = pandas.DataFrame([order(60), order(60), order(61)])
    FeatureTester(project).check({"orders": rows}, at=NOON, entities={"user": 1}, expect={"orders_1h": 2})


def test_a_late_event_counts_from_when_it_was_known(project: Path) -> None:
    tested = FeatureTester(project)
    rows = {"orders": [order(1800, 1.0), known(order(1700, 2.0), NOON), known(order(1600, 4.0), NOON - timedelta(minutes=1))]}
    for at, spent in [(NOON - timedelta(minutes=1), 1.0), (NOON, 5.0), (NOON + timedelta(seconds=1), 7.0)]:
        tested.check(rows, at=at, entities={"user": 1}, expect={"amount_sum_1h": spent})
    with pytest.raises(springhouse.InvalidInput):
        tested.features({"orders": [known(order(1), "late")]}, at=NOON, features=["spending"], entities={"user": 1})


def test_a_wrong_row_is_told_with_its_number(project: Path) -> None:
    tested = FeatureTester(project)
    for rows, code in [
        ({"orders": [order(1), order(2) | {"amount": "much"}]}, "wrong_type"),
        ({"orders": [order(1), {"order": "x", "user": 1}]}, "missing_column"),
        ({"orders": [order(1), order(2) | {"colour": "red"}]}, "unknown_column"),
    ]:
        with pytest.raises(springhouse.InvalidInput, match="row 1 of source `orders`") as raised:
            tested.features(rows, at=NOON, features=["spending"], entities={"user": 1})
        assert raised.value.code == code
    with pytest.raises(springhouse.NotFound):
        tested.features({"odrers": []}, at=NOON, features=["spending"], entities={"user": 1})
    with pytest.raises(springhouse.NotFound):
        tested.check({}, at=NOON, entities={"user": 1}, expect={"ordres_1h": 0})
    with pytest.raises(springhouse.InvalidInput):
        tested.features({}, at="yesterday", features=["spending"], entities={"user": 1})


def test_a_difference_is_told_with_its_entity(project: Path) -> None:
    with pytest.raises(AssertionError) as raised:
        FeatureTester(project).check(
            {"orders": [order(60, 0.1), order(61, 0.2)]},
            at=NOON,
            entities={"user": [1, 2]},
            expect={"amount_sum_1h": [0.3, 0.0], "orders_1h": [3, 0]},
        )
    said = str(raised.value)
    assert "amount_sum_1h[user=1]: expected 0.3, got 0.30000000000000004 (fresh)" in said
    assert "orders_1h[user=1]: expected 3, got 2 (fresh)" in said and "user=2" not in said


def test_a_tolerance_is_for_floats_alone(project: Path) -> None:
    rows = {"orders": [order(60, 0.1), order(61, 0.2)]}
    FeatureTester(project).check(rows, at=NOON, entities={"user": 1}, expect={"amount_sum_1h": 0.3}, rel=1e-9)
    with pytest.raises(AssertionError):
        FeatureTester(project).check(rows, at=NOON, entities={"user": 1}, expect={"orders_1h": 2.0}, rel=1.0)


def test_it_says_what_a_training_set_says(project: Path) -> None:
    """Random rows and moments, drawn from the windows' bounds: evaluated, and trained on, bit for bit."""
    draw = random.Random(SEED)
    print(f"seed {SEED}")
    near = [0.0, 1e-6, 59.0, 60.0, 3599.0, 3600.0, 3600.000001, 3659.999999, 3660.0, 7200.0, 86400.0]
    rows = []
    for number in range(300):
        before = draw.choice(near) + draw.choice([0.0, 0.0, draw.uniform(0, 120), -draw.uniform(0, 120)])
        row = order(before, draw.choice([None, draw.uniform(-1e9, 1e9), 0.1, 1e-300, 1e300]), draw.randint(1, 4))
        rows.append(row | {"order": str(number), "kind": draw.choice(["a", "b", None])})
    moments = [NOON + timedelta(microseconds=draw.choice([-1, 0, 1, 60_000_000, 3_600_000_000])) for _ in range(25)]
    schema = pyarrow.schema(
        [
            ("at", pyarrow.timestamp("us", tz="UTC")),
            ("order", pyarrow.string()),
            ("user", pyarrow.int64()),
            ("amount", pyarrow.float64()),
            ("kind", pyarrow.string()),
        ]
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), project / "data" / "orders.parquet")
    text = DEFINITIONS.replace("data/orders.csv", "data/orders.parquet")
    (project / "features" / "shop.yaml").write_text(text)
    labels = pyarrow.table(
        {
            "event_timestamp": pyarrow.array([m for m in moments for _ in range(4)], pyarrow.timestamp("us", tz="UTC")),
            "user": [1, 2, 3, 4] * len(moments),
            "basket": [1.0] * (4 * len(moments)),
        }
    )
    with springhouse.open(project) as store:
        store.apply()
        trained = store.training_set("checkout", labels, progress=False).to_arrow()
    tested = FeatureTester(project)
    names = ["orders_1h", "orders_lifetime", "amount_sum_1h", "amount_mean_1h", "amount_sum_lifetime"]
    for number, moment in enumerate(moments):
        given = {"orders": rows if number % 2 else draw.sample(rows, len(rows))}
        answer = tested.features(given, at=moment, features=["spending"], entities={"user": [1, 2, 3, 4]})
        for name in names:
            assert answer[name] == trained[name].slice(number * 4, 4).to_pylist(), (name, moment)


def test_the_plug_in_finds_the_project(project: Path, pytester: pytest.Pytester) -> None:
    (pytester.path / "springhouse.yaml").write_text("project: shop\n")
    (pytester.path / "features").mkdir()
    (pytester.path / "features" / "shop.yaml").write_text(DEFINITIONS)
    pytester.makepyfile(
        """
        ROWS = {"orders": [{"at": "2026-01-01T11:30:00Z", "order": "a", "user": 1, "amount": 5.0}]}

        def test_right(springhouse_features):
            springhouse_features.check(ROWS, at="2026-01-01T12:00:00Z", entities={"user": 1}, expect={"orders_1h": 1})

        def test_wrong(springhouse_features):
            springhouse_features.check(ROWS, at="2026-01-01T12:00:00Z", entities={"user": 1}, expect={"orders_1h": 2})
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*orders_1h*user=1*expected 2, got 1*"])


def test_the_plug_in_says_when_there_is_no_project(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(springhouse_features): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no springhouse.yaml*springhouse_project*"])
