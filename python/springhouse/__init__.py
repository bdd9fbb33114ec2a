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
from .definitions import (
    UNSET,
    Aggregate,
    Column,
    Definitions,
    Entity,
    FeatureService,
    FeatureView,
    FreshnessSlo,
    Kafka,
    LatestFeature,
    Population,
    RequestFeature,
    RequestView,
    ServiceSlo,
    Source,
    Stream,
    Table,
    Ttl,
)
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
    "Aggregate",
    "Catalog",
    "Column",
    "Conflict",
    "DefinitionError",
    "Definitions",
    "Entity",
    "FeatureService",
    "FeatureView",
    "Features",
    "Forbidden",
    "FreshnessSlo",
    "Internal",
    "InvalidInput",
    "Kafka",
    "LatestFeature",
    "NotFound",
    "Plan",
    "Population",
    "PushOutcome",
    "Refused",
    "RequestFeature",
    "RequestView",
    "RowsRefused",
    "ServiceSlo",
    "Source",
    "SpringhouseError",
    "Status",
    "Store",
    "Stream",
    "Table",
    "TrainingSet",
    "Ttl",
    "UNSET",
    "Unavailable",
    "__version__",
    "connect",
    "open",
]
