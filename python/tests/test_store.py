"""The store, through both doors: what a user does from definitions to verified features."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
from shop import DEFINITIONS, Server, now, program

import springhouse

LABELS = pyarrow.table(
    {
        "event_timestamp": pyarrow.array(
            [datetime(2026, 1, 1, 10, tzinfo=timezone.utc), datetime(2026, 1, 5, tzinfo=timezone.utc)] * 2,
            pyarrow.timestamp("us", tz="UTC"),
        ),
        "user": pyarrow.array([1, 1, 2, 3], pyarrow.int64()),
        "basket": [1.0, 2.0, 3.0, 4.0],
        "label": ["a", "b", "c", "d"],
    }
)
EXPECTED_ORDERS = [0, 2, 0, 0]


def test_from_history_to_verified_features(store: springhouse.Store) -> None:
    assert {view["view"] for view in store.materialize(progress=False)} == {"spending@1", "profile@1"}
    answer = store.features("checkout", {"user": [1, 2, 9]}, request={"basket": [20.25, 1.0, 1.0]})
    assert answer["orders_lifetime"] == [2, 1, 0]
    assert answer["amount_mean_lifetime"] == [15.25, 0.0, 0.0]
    assert answer["kinds_lifetime"] == [{"book": 2}, {"toy": 1}, {}]
    assert answer["city"] == ["Bonn", "nowhere", "nowhere"]
    assert answer["born"][0] == date(1990, 5, 6)
    assert answer["score"][0] == Decimal("14.00")
    assert answer["since"][0] == datetime(2026, 1, 2, tzinfo=timezone.utc)
    assert answer["basket_to_usual"][0] == 5.0
    assert answer.statuses["city"] == ["fresh", "missing", "missing"]
    assert answer.ages["city"][0] is not None and answer.ages["city"][2] is None
    assert answer.at.tzinfo is not None and answer.level in ("healthy", "degraded")
    pushed = store.push("orders", {"at": now(2), "order": "o4", "user": 1, "amount": 1.25, "kind": "toy"})
    assert (pushed.accepted, pushed.refused) == (1, 0)
    again = store.push("orders", {"at": now(2), "order": "o4", "user": 1, "amount": 1.25, "kind": "toy"})
    assert (again.accepted, again.duplicates) == (0, 1), "an event of one id counts once"
    assert store.features(["spending:orders_1h"], {"user": 1})["orders_1h"] == [1]
    checked = store.verify(progress=False)
    assert checked["difference_count"] == 0 and checked["values"] > 0
    assert any(line for line in store.explain("spending", {"user": 1})["features"])
    assert {view["view"] for view in store.status()["views"]} == {"spending@1", "profile@1"}
    assert store.services().names == ["checkout"] and "spending" in store.views().names
    assert [view["rebuilt"] for view in store.rebuild(["profile"], progress=False)] == [True]


FRAMES: list[Callable[[pyarrow.Table], Any]] = [
    lambda table: table,
    lambda table: table.to_pandas(),
    polars.from_arrow,
    lambda table: table.to_reader(max_chunksize=3),
]


@pytest.mark.parametrize("frame", FRAMES, ids=["pyarrow", "pandas", "polars", "reader"])
def test_a_training_set_from_any_frame(store: springhouse.Store, frame: Callable[[pyarrow.Table], Any]) -> None:
    made = store.training_set("checkout", frame(LABELS), progress=False)
    table = made.to_arrow()
    assert table["label"].to_pylist() == ["a", "b", "c", "d"], "the labels' rows, in their order"
    assert table["orders_lifetime"].to_pylist() == EXPECTED_ORDERS, "an event is not among its own features"
    assert table["city"].to_pylist() == ["Köln", "Bonn", "nowhere", "nowhere"]
    assert len(made) == made.rows == 4
    assert made.feature_names == [name for name in table.column_names if name not in LABELS.column_names]
    assert made.manifest["labels"]["name"] == "table", "no path of a temporary file: two equal runs are equal"
    assert store.training_set("checkout", frame(LABELS), progress=False).manifest == made.manifest
    assert made.to_polars()["orders_lifetime"].to_list() == EXPECTED_ORDERS
    assert made.to_pandas()["orders_lifetime"].tolist() == EXPECTED_ORDERS
    assert pyarrow.table(made).equals(table), "the PyCapsule interface can be read more than once"


def test_a_training_set_from_and_to_files_is_the_command_lines(project: Path) -> None:
    labels, out = project / "labels.parquet", project / "ours.parquet"
    pyarrow.parquet.write_table(LABELS, labels)
    with springhouse.open(project) as store:
        store.apply()
        made = store.training_set("checkout", labels, out=out, progress=False)
    theirs = project / "theirs.parquet"
    command = [program(), "--project", project, "train", "--service", "checkout", "--labels", labels, "--out", theirs]
    subprocess.run(command, check=True)
    assert out.read_bytes() == theirs.read_bytes()
    assert Path(f"{out}.manifest.json").read_bytes() == Path(f"{theirs}.manifest.json").read_bytes()
    assert made.path == out and made.manifest["service"] == "checkout"


def test_a_training_set_again_and_in_parts(project: Path) -> None:
    labels, first, again, parts = (project / f"{name}.parquet" for name in ("labels", "first", "again", "parts"))
    pyarrow.parquet.write_table(LABELS, labels)
    with springhouse.open(project) as store:
        store.apply()
        made = store.training_set("checkout", labels, out=first, progress=False)
        manifest = f"{first}.manifest.json"
        store.training_set(manifest=manifest, out=again, progress=False)
        store.training_set("checkout", labels, out=parts, resumable=True, progress=False)
        assert first.read_bytes() == again.read_bytes() == parts.read_bytes()
        assert store.training_set(manifest=manifest, progress=False).to_arrow().equals(made.to_arrow())
        with pytest.raises(springhouse.InvalidInput, match="`manifest` and `out` alone"):
            store.training_set("checkout", manifest=manifest)
        with pytest.raises(springhouse.SpringhouseError, match="goes to a file"):
            store.training_set("checkout", LABELS, resumable=1000, progress=False)
        store.training_set("checkout", LABELS, out=project / "gone.parquet", progress=False)
        with pytest.raises(springhouse.SpringhouseError, match="were a table in memory"):
            store.training_set(manifest=project / "gone.parquet.manifest.json", progress=False)
        pyarrow.parquet.write_table(LABELS.slice(1), labels)
        with pytest.raises(springhouse.SpringhouseError, match="labels_changed"):
            store.training_set(manifest=manifest, out=again, progress=False)


ENTITIES: list[Any] = [
    {"user": 1},
    {"user": numpy.int64(1)},
    {"user": [1]},
    {"user": (1,)},
    {"user": numpy.array([1])},
    {"user": pandas.Series([1])},
    {"user": polars.Series([1])},
    {"user": pyarrow.array([1])},
    [{"user": 1}],
    pandas.DataFrame({"user": [1]}),
    polars.DataFrame({"user": [1]}),
    pyarrow.table({"user": [1]}),
]


@pytest.mark.parametrize("entities", ENTITIES, ids=lambda e: type(e["user"] if isinstance(e, dict) else e).__name__)
def test_entities_in_any_shape(project: Path, entities: Any) -> None:
    with springhouse.open(project) as store:
        store.apply()
        store.materialize(progress=False)
        assert store.features(["profile:city"], entities).rows() == [{"city": "Bonn"}]


def test_pushes_in_any_shape(store: springhouse.Store) -> None:
    row = {"order": "p1", "user": 5, "amount": 1.0, "kind": None}
    at = datetime.now(timezone.utc) - timedelta(seconds=2)
    assert store.push("orders", row | {"at": at}).accepted == 1
    assert store.push("orders", [row | {"at": at, "order": "p2", "amount": float("nan")}]).accepted == 1
    frame = pandas.DataFrame([row | {"at": at, "order": "p3"}])
    frame["at"] = frame["at"].astype("datetime64[us, UTC]")
    frame["kind"] = frame["kind"].astype("string")
    assert store.push("orders", pyarrow.Table.from_pandas(frame, preserve_index=False)).accepted == 1
    assert store.push("orders", []).rows == 0
    answer = store.features(["spending:orders_1h", "spending:amount_sum_1h"], {"user": 5})
    assert (answer["orders_1h"], answer["amount_sum_1h"]) == ([3], [2.0])


def test_an_idempotency_key_makes_a_push_repeatable(store: springhouse.Store) -> None:
    rows = [{"at": now(2), "order": f"k{n}", "user": 6, "amount": 1.0} for n in range(3)]
    first = store.push("orders", rows, idempotency_key="batch-1")
    second = store.push("orders", rows, idempotency_key="batch-1")
    assert first.accepted == 3
    assert store.features(["spending:orders_1h"], {"user": 6})["orders_1h"] == [3]
    assert second.end_offset == first.end_offset


def test_refused_rows_are_told_one_by_one(store: springhouse.Store) -> None:
    rows: list[dict[str, Any]] = [
        {"at": now(2), "order": "r1", "user": 7, "amount": 1.0},
        {"at": now(2), "order": "r2", "user": "seven"},
        {"at": now(2), "order": "r3", "user": 7, "colour": "red"},
    ]
    with pytest.raises(springhouse.RowsRefused) as refused:
        store.push("orders", rows)
    outcome = refused.value.outcome
    assert (outcome.accepted, outcome.refused) == (1, 2)
    assert [(e["row"], e["code"]) for e in outcome.exceptions] == [(1, "wrong_type"), (2, "unknown_column")]
    assert store.push("orders", rows[1:], on_refused="return").refused == 2
    assert {letter["code"] for letter in store.dead_letters("orders")} == {"wrong_type", "unknown_column"}
    assert store.features(["spending:orders_1h"], {"user": 7})["orders_1h"] == [1]


WRONG: list[tuple[type[springhouse.SpringhouseError], str, Callable[[springhouse.Store], Any]]] = [
    (springhouse.NotFound, "unknown_service", lambda s: s.features("chekout", {"user": 1})),
    (springhouse.NotFound, "unknown_feature", lambda s: s.features(["spending:ordres"], {"user": 1})),
    (springhouse.InvalidInput, "wrong_type", lambda s: s.features(["spending"], {"user": "one"})),
    (springhouse.InvalidInput, "missing_entity_key", lambda s: s.features(["spending"], {})),
    (springhouse.InvalidInput, "row_count_mismatch", lambda s: s.features("checkout", {"user": [1, 2, 3]}, request={"basket": [1.0, 2.0]})),
    (springhouse.InvalidInput, "invalid_argument", lambda s: s.features(["spending"], 7)),
    (springhouse.InvalidInput, "invalid_argument", lambda s: s.features(["spending"], {"user": object()})),
    (springhouse.NotFound, "unknown_source", lambda s: s.push("order", {"a": 1})),
    (springhouse.InvalidInput, "not_a_stream", lambda s: s.push("profiles", {"a": 1})),
    (springhouse.NotFound, "unknown_view", lambda s: s.materialize(["nothing"])),
    (springhouse.NotFound, "unknown_service", lambda s: s.training_set("nothing", LABELS, progress=False)),
    (springhouse.InvalidInput, "labels_missing_key", lambda s: s.training_set("checkout", LABELS.drop(["user"]), progress=False)),
    (springhouse.InvalidInput, "labels_wrong_type", lambda s: s.training_set("checkout", LABELS.set_column(1, "user", [["x"] * 4]), progress=False)),
    (springhouse.InvalidInput, "invalid_argument", lambda s: s.training_set("checkout", [1, 2], progress=False)),
    (springhouse.InvalidInput, "naive_timestamp", lambda s: s.materialize(until=datetime(2026, 1, 1))),
]


@pytest.mark.parametrize(("kind", "code", "call"), WRONG, ids=[f"{n}-{w[1]}" for n, w in enumerate(WRONG)])
def test_wrong_calls_have_one_error_through_both_doors(
    store: springhouse.Store,
    kind: type[springhouse.SpringhouseError],
    code: str,
    call: Callable[[springhouse.Store], Any],
) -> None:
    with pytest.raises(kind) as raised:
        call(store)
    assert raised.value.code == code
    assert raised.value.message and str(raised.value).startswith(f"[{code}]")


def test_definitions_are_planned_and_applied(store: springhouse.Store) -> None:
    class Text:
        def __init__(self, text: str) -> None:
            self.text = text

        def to_yaml(self) -> str:
            return self.text

    assert not store.plan(Text(DEFINITIONS)), "what is applied"
    more = DEFINITIONS.replace("windows: [1h, lifetime], default: 0}", "windows: [1h, 2h, lifetime], default: 0}", 1)
    more = more.replace("    source: orders\n", "    source: orders\n    version: 2\n", 1)
    plan = store.plan(Text(more))
    assert plan and plan.breaking == 0 and "orders_2h" in str(plan) and plan.snapshot is None
    assert not store.plan(Text(DEFINITIONS)), "a plan changes nothing"
    breaking = DEFINITIONS.replace("fn: count, windows: [1h, lifetime], default: 0", "fn: count, windows: [1h], default: 0", 1)
    with pytest.raises(springhouse.Conflict) as refused:
        store.apply(Text(breaking))
    assert refused.value.code == "breaking_changes" and "orders_lifetime" in refused.value.message
    with pytest.raises(springhouse.DefinitionError) as wrong:
        store.plan(Text(DEFINITIONS.replace("source: orders", "source: order", 1)))
    assert wrong.value.code == "definitions_wrong" and "order" in wrong.value.message


def test_a_second_store_of_the_project_goes_through_the_server(project: Path, server: Server) -> None:
    with springhouse.open(project) as store:
        assert server.address in repr(store)
        store.materialize(progress=False)
        assert store.features(["profile:city"], {"user": 1})["city"] == ["Bonn"]
        made = store.training_set("checkout", LABELS, progress=False)
        assert made.to_arrow()["orders_lifetime"].to_pylist() == EXPECTED_ORDERS
        some = store.training_set(["checkout"], LABELS, features=["profile:city"], sample=3, seed=1, progress=False)
        assert some.feature_names == ["city"] and len(some) == 3 and some.report is None
        for options in ({"memory_mb": 1}, {"labels_sql": "SELECT 1", "labels": None}, {"output_format": "csv"}):
            with pytest.raises(springhouse.InvalidInput):
                store.training_set("checkout", **({"labels": LABELS} | options), progress=False)
        with pytest.raises(springhouse.InvalidInput, match="a share such as"):
            store.training_set("checkout", LABELS, sample="some", progress=False)


def test_two_processes_can_take_turns(project: Path) -> None:
    store = springhouse.open(project)
    store.apply()
    store.materialize(progress=False)
    store.push("orders", {"at": now(2), "order": "t1", "user": 8, "amount": 1.0})
    store.close()
    code = (
        "import springhouse, sys\n"
        "with springhouse.open(sys.argv[1]) as s: print(s.features(['spending:orders_1h'], {'user': 8})['orders_1h'])"
    )
    said = subprocess.run([sys.executable, "-c", code, str(project)], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[1]"
    assert store.features(["spending:orders_1h"], {"user": 8})["orders_1h"] == [1], "a closed store opens again"
    store.close()


def test_what_was_pushed_survives_kill_9(project: Path) -> None:
    code = (
        "import os, springhouse, sys\n"
        "s = springhouse.open(sys.argv[1]); s.apply(); s.materialize(progress=False)\n"
        "from datetime import datetime, timezone\n"
        "rows = [{'at': datetime.now(timezone.utc), 'order': f'x{n}', 'user': 9, 'amount': 1.0} for n in range(500)]\n"
        "print(s.push('orders', rows).accepted, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(project)], capture_output=True, text=True)
    assert said.returncode == -signal.SIGKILL and said.stdout.strip() == "500", said.stderr
    with springhouse.open(project) as store:
        assert store.features(["spending:orders_1h"], {"user": 9})["orders_1h"] == [500]


def test_two_stores_of_one_project_share_it(project: Path) -> None:
    first, second = springhouse.open(project), springhouse.open(f"{project}/../{project.name}")
    first.apply()
    first.materialize(progress=False)
    second.push("orders", {"at": now(2), "order": "s1", "user": 8, "amount": 1.0})
    assert first.features(["spending:orders_1h"], {"user": 8})["orders_1h"] == [1]
    first.close()
    assert second.features(["spending:orders_1h"], {"user": 8})["orders_1h"] == [1], "it opens again"
    second.close()


def test_a_store_that_was_dropped_or_forgotten_is_closed(project: Path) -> None:
    code = (
        "import springhouse, sys\n"
        "s = springhouse.open(sys.argv[1]); s.apply(); s.materialize(progress=False)\n"
        "s = springhouse.open(sys.argv[1]); print(s.features(['profile:city'], {'user': 1})['city'])\n"
    )
    for _ in range(2):
        said = subprocess.run([sys.executable, "-c", code, str(project)], capture_output=True, text=True, timeout=60)
        assert said.stdout.strip() == "['Bonn']", said.stderr


def test_a_forked_child_is_told_and_its_parent_goes_on(project: Path) -> None:
    code = (
        "import os, springhouse, sys\n"
        "s = springhouse.open(sys.argv[1]); s.apply(); s.materialize(progress=False)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: s.features(['profile:city'], {'user': 1})\n"
        "    except springhouse.Conflict as error: print(error.code, flush=True)\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(s.features(['profile:city'], {'user': 1})['city'])\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(project)], capture_output=True, text=True, timeout=60)
    assert said.stdout.split("\n")[:2] == ["forked", "['Bonn']"], said.stderr


def test_an_unreachable_server_is_told(project: Path) -> None:
    with springhouse.connect("http://127.0.0.1:9") as store, pytest.raises(springhouse.Unavailable) as raised:
        store.status()
    assert raised.value.code == "server_unreachable" and raised.value.hint
    with pytest.raises(springhouse.InvalidInput):
        springhouse.connect("ftp://somewhere")


def test_a_restarted_server_is_found_again(project: Path, server: Server) -> None:
    with springhouse.connect(server.address) as store:
        assert store.services().names == ["checkout"]
        server.stop()
        with pytest.raises(springhouse.Unavailable):
            store.status()


def test_mistakes_in_the_files_come_all_at_once(project: Path) -> None:
    (project / "features" / "shop.yaml").write_text(DEFINITIONS.replace("column: amount", "column: amonut"))
    store = springhouse.open(project)
    with pytest.raises(springhouse.DefinitionError) as raised:
        store.validate()
    mistake = raised.value.mistakes[0]
    assert mistake["file"] == "features/shop.yaml" and mistake["line"] > 1 and "amonut" in mistake["message"]


def test_threads_and_tasks_share_a_store(store: springhouse.Store) -> None:
    store.materialize(progress=False)

    def one(user: int) -> Any:
        return store.features(["spending:orders_lifetime"], {"user": user})["orders_lifetime"][0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, [1, 2, 3] * 40)) == [2, 1, 0] * 40

    async def many() -> list[Any]:
        calls = [store.features_async(["spending:orders_lifetime"], {"user": user}) for user in (1, 2, 3)]
        return [answer["orders_lifetime"][0] for answer in await asyncio.gather(*calls)]

    assert asyncio.run(many()) == [2, 1, 0]


def test_a_call_releases_the_interpreter(project: Path) -> None:
    with springhouse.open(project) as store:
        store.apply()
        turns, stop = 0, threading.Event()

        def count() -> None:
            nonlocal turns
            while not stop.is_set():
                turns += 1
                time.sleep(0)

        other = threading.Thread(target=count)
        other.start()
        store.training_set("checkout", pyarrow.concat_tables([LABELS] * 5_000), progress=False)
        stop.set()
        other.join()
        assert turns > 10


def test_ctrl_c_stops_a_training_set_and_leaves_nothing(project: Path) -> None:
    labels, out = project / "labels.parquet", project / "out.parquet"
    pyarrow.parquet.write_table(pyarrow.concat_tables([LABELS] * 400_000), labels)
    code = (
        "import springhouse, sys\n"
        "s = springhouse.open(sys.argv[1]); s.apply(); s.materialize(progress=False)\n"
        "print('ready', flush=True)\n"
        "s.training_set('checkout', sys.argv[2], out=sys.argv[3], progress=False)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(project), str(labels), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in said, said
    assert process.returncode != 0 and not out.exists()
    assert [name for name in os.listdir(project) if name.endswith(".partial")] == []


def test_definitions_in_python_go_the_same_way(project: Path) -> None:
    from springhouse.definitions import Definitions, Entity

    with springhouse.open(project) as store:
        store.apply()
        assert isinstance(Definitions(entities=[]), Definitions)
        plan = store.plan(Definitions(entities=[Entity(name="user", keys={"user": "int64"})]))
        assert plan.breaking > 0, "everything else would go"


def test_frames_have_the_declared_types(project: Path) -> None:
    with springhouse.open(project) as store:
        store.apply()
        answer = store.features(["profile:city", "spending:amount_mean_1h", "spending:orders_1h"], {"user": [1, 2]})
        frame = answer.to_pandas()
        assert str(frame["orders_1h"].dtype) == "int64" and str(frame["amount_mean_1h"].dtype) == "float64"
        assert answer.to_polars().shape == (2, 3)
        plain = store.features(["spending:orders_1h"], {"user": 1}, metadata=False)
        assert plain["orders_1h"] == [0] and plain.statuses == {} and plain.ages == {}
        assert plain.to_pandas()["orders_1h"].tolist() == [0]


def test_training_options_say_what_the_command_lines_say(project: Path) -> None:
    with springhouse.open(project) as store:
        store.apply()
        whole = store.training_set("checkout", LABELS, progress=False).to_arrow()
        some = store.training_set("checkout", LABELS, features=["profile:city", "orders_1h"], progress=False)
        assert some.feature_names == ["city", "orders_1h"]
        assert some.to_arrow()["orders_1h"].equals(whole["orders_1h"])
        alone = store.training_set(None, LABELS, features=["spending:orders_1h"], progress=False)
        assert alone.feature_names == ["orders_1h"] and repr(alone).startswith("TrainingSet(4 rows")
        both = store.training_set(["checkout", "checkout"], LABELS, progress=False)
        assert both.to_arrow().equals(whole)
        sampled = store.training_set("checkout", LABELS, sample=2, seed=3, progress=False)
        assert len(sampled) == 2 and set(sampled.to_arrow()["label"].to_pylist()) < {"a", "b", "c", "d"}
        assert store.training_set("checkout", LABELS, sample="100%", progress=False).to_arrow().equals(whole)
        assert some.report is not None and some.report["made"]["rows"] == 4
        plan = store.training_plan("checkout", LABELS)
        assert plan["made"] is None and plan["labels"]["rows"] == 4
        pyarrow.parquet.write_table(LABELS, project / "labels.parquet")
        sql = f"SELECT * FROM '{project}/labels.parquet' WHERE label <> 'b'"
        queried = store.training_set("checkout", labels_sql=sql, progress=False)
        assert queried.to_arrow()["label"].to_pylist() == ["a", "c", "d"]


def test_labels_in_memory_are_not_copied_and_nothing_is_written(project: Path, tmp_path: Path, monkeypatch: Any) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("TMPDIR", str(empty))
    with springhouse.open(project) as store:
        store.apply()
        made = store.training_set("checkout", LABELS, progress=False).to_arrow()
        assert list(empty.iterdir()) == []
        assert made["user"].chunk(0).buffers()[1].address == LABELS["user"].chunk(0).buffers()[1].address


@pytest.mark.parametrize("name", ["set.parquet", "set.arrow", "set.arrows", "set.csv"])
def test_a_training_set_in_every_format(project: Path, name: str) -> None:
    with springhouse.open(project) as store:
        store.apply()
        expected = store.training_set("checkout", LABELS, progress=False).to_arrow()
        made = store.training_set("checkout", LABELS, out=project / name, progress=False)
        assert Path(f"{project / name}.manifest.json").exists() and made.path == project / name
        if name == "set.csv":
            with pytest.raises(springhouse.InvalidInput, match="keeps no types"):
                made.to_arrow()
            assert pandas.read_csv(project / name)["orders_lifetime"].tolist() == EXPECTED_ORDERS
        else:
            assert made.to_arrow().equals(expected)
        frame = store.training_set("checkout", LABELS, out=project / "x", output_format="csv", progress=False)
        assert frame.manifest["format"] == "csv"


WRONG_TRAINING: list[tuple[str, str, dict[str, Any]]] = [
    ("unknown_feature", "did you mean `orders_1h`", {"features": ["orders_1"]}),
    ("invalid_argument", "a share such as 1%", {"sample": "many"}),
    ("labels_bad_query", "no LIMIT", {"labels": None, "labels_sql": "SELECT * FROM 'x.parquet' LIMIT 3"}),
    ("invalid_argument", "one of them", {"labels": None}),
    ("unknown_format", "says no format", {"out": "x.docx"}),
    ("invalid_argument", "needs `out`", {"output_format": "csv"}),
]


@pytest.mark.parametrize("code, text, options", WRONG_TRAINING, ids=lambda v: v if isinstance(v, str) else "")
def test_a_wrong_training_option_says_so(project: Path, code: str, text: str, options: dict[str, Any]) -> None:
    with springhouse.open(project) as store:
        store.apply()
        with pytest.raises(springhouse.SpringhouseError) as caught:
            store.training_set("checkout", **({"labels": LABELS} | options), progress=False)
        assert caught.value.code == code and text in str(caught.value), caught.value
