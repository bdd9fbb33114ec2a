"""Training sets for PyTorch and for Hugging Face `datasets`.

    from torch.utils.data import DataLoader
    from springhouse.torch import TrainingDataset

    data = TrainingDataset(training_set, ["origin_delay_mean_1h", "origin_late_1h"], "late30")
    for features, target in DataLoader(data, batch_size=256, shuffle=True):      # [256, 2] and [256], float32 tensors
        ...

Packages are imported when they are needed; a missing one raises :class:`~springhouse.errors.InvalidInput`
(``missing_package``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from .errors import InvalidInput
from .training import TrainingSet

__all__ = ["TrainingDataset", "to_hf"]


class TrainingDataset:
    """The rows of a training set as a map-style dataset of PyTorch.

    Item ``i`` is a pair: the features, a float32 array of shape ``[len(features)]`` in the given order (or what
    ``transform`` makes of it), and the target, a float32. Items are numpy's, which a ``DataLoader`` turns into
    tensors, so that torch is not needed to make or read them; ``transform=torch.from_numpy`` gives tensors at once.

    Features and target are numbers or bools (1.0 and 0.0). A null feature is NaN. Rows whose target is null, such as
    the delay of a cancelled flight, are left out; ``row_numbers`` (int64) says which rows of the training set the
    items are. float32 keeps whole numbers exactly to 16,777,216.

    ``matrix`` is all features, ``[len(self), len(features)]``, and ``targets`` all targets, ``[len(self)]``.

    Raises :class:`InvalidInput`: ``unknown_column``, ``not_numeric`` for text, timestamps and lists,
    ``missing_package`` without numpy or pyarrow.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        features: Sequence[str],
        target: str,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        numpy = _package("numpy")
        _package("pyarrow")
        if isinstance(features, str):
            features = [features]
        table = training_set.to_arrow()
        self.features, self.target, self.transform = list(features), target, transform
        known = numpy.flatnonzero(numpy.asarray(_column(table, target).is_valid()))
        self.row_numbers = known.astype(numpy.int64)
        self.targets = _numbers(table, target)[known]
        self.matrix = numpy.empty((len(known), len(self.features)), numpy.float32)
        for place, name in enumerate(self.features):
            self.matrix[:, place] = _numbers(table, name)[known]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int) -> tuple[Any, Any]:
        row = self.matrix[item]
        return (row if self.transform is None else self.transform(row)), self.targets[item]

    def tensors(self) -> tuple[Any, Any]:
        """Features ``[len(self), len(features)]`` and targets ``[len(self)]``: float32 tensors over the same memory.

        Raises :class:`InvalidInput` (``missing_package``) without torch.
        """
        torch = _package("torch")
        return torch.from_numpy(self.matrix), torch.from_numpy(self.targets)

    def __repr__(self) -> str:
        return f"TrainingDataset({len(self)} rows, {len(self.features)} features, target `{self.target}`)"


def to_hf(training_set: TrainingSet) -> Any:
    """The training set as a Hugging Face ``datasets.Dataset``: the labels' columns, then the features, not copied.

    Raises :class:`InvalidInput` (``missing_package``) without `datasets` or pyarrow.
    """
    _package("pyarrow")
    datasets = _package("datasets")
    return datasets.Dataset(datasets.table.InMemoryTable(training_set.to_arrow()))


def _column(table: Any, name: str) -> Any:
    if name not in table.column_names:
        raise InvalidInput(
            "unknown_column",
            f"the training set has no column `{name}`",
            "it has " + ", ".join(f"`{column}`" for column in table.column_names),
        )
    return table[name]


def _numbers(table: Any, name: str) -> Any:
    """A column as float32, null as NaN."""
    from pyarrow import compute, float32, types

    column = _column(table, name)
    if not (types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type)):
        raise InvalidInput(
            "not_numeric",
            f"column `{name}` is {column.type}, which is no number",
            "leave it out, or make numbers of it in the training set's table first",
        )
    # An integer that float32 can't hold is rounded, as documented, not refused.
    return compute.cast(column, float32(), safe=False).to_numpy()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InvalidInput("missing_package", f"the package `{name}` is not installed", f"pip install {name}") from None
