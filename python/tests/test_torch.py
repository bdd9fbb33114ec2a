"""Training sets for PyTorch and Hugging Face.

Items are read as a `DataLoader` reads them, by `len` and by number, so most of this needs no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import springhouse
from springhouse import InvalidInput, TrainingSet
from springhouse.torch import TrainingDataset, to_hf

numpy = pytest.importorskip("numpy")
pyarrow = pytest.importorskip("pyarrow")

FEATURES = ["orders_lifetime", "amount_mean_lifetime", "basket_to_usual"]


@pytest.fixture
def training(project: Path) -> TrainingSet:
    """Three rows, of which the second has no target."""
    from datetime import datetime, timezone

    moments = [datetime(2026, 1, day, 12, tzinfo=timezone.utc) for day in (1, 2, 3)]
    labels = pyarrow.table(
        {
            "user": [1, 1, 3],
            "event_timestamp": pyarrow.array(moments, pyarrow.timestamp("us", tz="UTC")),
            "basket": [10.0, 20.0, 30.0],
            "returned": [True, None, False],
        }
    )
    with springhouse.open(project) as store:
        store.apply()
        return store.training_set("checkout", labels, progress=False)


def test_items_are_features_and_target_and_rows_without_a_target_are_left_out(training: TrainingSet) -> None:
    data = TrainingDataset(training, FEATURES, "returned")
    assert len(data) == 2
    assert data.row_numbers.tolist() == [0, 2]
    row, target = data[0]
    assert (row.dtype, row.shape, target.dtype) == (numpy.float32, (3,), numpy.float32)
    assert (row.tolist(), float(target)) == ([1.0, 10.0, 0.0], 1.0)
    assert float(data[1][1]) == 0.0
    assert [len(data), 3] == list(data.matrix.shape)
    with pytest.raises(IndexError):
        data[2]


def test_a_null_feature_is_nan(training: TrainingSet) -> None:
    table = training.to_arrow().append_column("nothing", pyarrow.array([None, None, 1], pyarrow.int64()))
    holes = TrainingSet(table, training.manifest)
    assert [numpy.isnan(row[0]) for row, _ in iter(TrainingDataset(holes, ["nothing"], "returned"))] == [True, False]


def test_a_transform_is_given_the_features(training: TrainingSet) -> None:
    assert TrainingDataset(training, FEATURES, "returned", transform=lambda row: row.sum())[0][0] == 11.0


def test_what_is_no_number_is_refused(training: TrainingSet) -> None:
    for features, target, code in (
        (["city"], "returned", "not_numeric"),
        (FEATURES, "event_timestamp", "not_numeric"),
        (["orders"], "returned", "unknown_column"),
        (FEATURES, "late", "unknown_column"),
    ):
        with pytest.raises(InvalidInput) as refused:
            TrainingDataset(training, features, target)
        assert refused.value.code == code


def test_a_data_loader_makes_batches(training: TrainingSet) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    data = TrainingDataset(training, FEATURES, "returned")
    features, target = next(iter(DataLoader(data, batch_size=2)))
    assert (features.shape, target.tolist(), features.dtype) == ((2, 3), [1.0, 0.0], torch.float32)
    assert torch.equal(data.tensors()[0], features)


def test_to_hf_has_every_row_and_column(training: TrainingSet) -> None:
    pytest.importorskip("datasets")
    made = to_hf(training)
    assert made.column_names == training.to_arrow().column_names
    assert made["orders_lifetime"][:] == training.to_arrow()["orders_lifetime"].to_pylist()


@pytest.mark.parametrize("package", ["torch", "datasets"])
def test_a_missing_package_is_named(package: str, training: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidInput) as refused:
        to_hf(training) if package == "datasets" else TrainingDataset(training, FEATURES, "returned").tensors()
    assert (refused.value.code, refused.value.hint) == ("missing_package", f"pip install {package}")
