"""Springhouse: a feature store whose training data and live answers are the same numbers.

>>> import springhouse
>>> springhouse.open("no/such/project")
Traceback (most recent call last):
...
springhouse.errors.NotFound: [no_project] ...

`open` gives the store of a project folder, in this process; `connect` that of a running server. Both have one API: see
:class:`Store`.
"""

from ._native import __version__
from .errors import (
    Conflict,
    DefinitionError,
    Forbidden,
    Internal,
    InvalidInput,
    NotFound,
    Refused,
    RowsRefused,
    SpringhouseError,
    Unavailable,
)
from .features import Features
from .store import Catalog, Plan, PushOutcome, Status, Store, connect, open
from .training import TrainingSet

__all__ = [
    "Catalog",
    "Conflict",
    "DefinitionError",
    "Features",
    "Forbidden",
    "Internal",
    "InvalidInput",
    "NotFound",
    "Plan",
    "PushOutcome",
    "Refused",
    "RowsRefused",
    "SpringhouseError",
    "Status",
    "Store",
    "TrainingSet",
    "Unavailable",
    "__version__",
    "connect",
    "open",
]
