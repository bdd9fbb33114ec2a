"""Late departures behind BentoML: the keys come in, the features come from Springhouse, the model answers.

    springhouse serve &                     # the features, at http://127.0.0.1:8765: see examples/flights/README.md
    bentoml serve examples/serving/bentoml_service.py:LateDeparture
    curl -H 'content-type: application/json' localhost:3000/late -d '{"flights": [
        {"origin": "JFK", "carrier": "B6", "tailnum": "N705JB", "distance": 1617, "sched_hour": 17}]}'

Needs springhouse, bentoml, scikit-learn, pandas and pyarrow. The model is one of `our_models` of
examples/flights/model.py, kept with `joblib.dump(our_models[0], "late_departure.joblib")`; it knows the names of its
features. BentoML runs several workers, and a project has one writer: they ask a server instead of opening it.
"""

from __future__ import annotations

import os

import bentoml
import joblib
from bentoml.exceptions import InvalidArgument, ServiceUnavailable
from pydantic import BaseModel

import springhouse


class Flight(BaseModel):
    """What is known when the question is asked."""

    origin: str
    carrier: str
    tailnum: str
    distance: float
    sched_hour: int


@bentoml.service(traffic={"timeout": 5})
class LateDeparture:
    """Will these flights leave 30 minutes late?"""

    def __init__(self) -> None:
        self.store = springhouse.connect(os.environ.get("SPRINGHOUSE_URL", "http://127.0.0.1:8765"), timeout=2.0)
        self.model = joblib.load(os.environ.get("LATE_DEPARTURE_MODEL", "late_departure.joblib"))

    @bentoml.api
    def late(self, flights: list[Flight]) -> list[float]:
        """One probability per flight, in their order."""
        if not flights:
            return []
        try:
            answer = self.store.features(
                "late_departure",
                [flight.model_dump(include={"origin", "carrier", "tailnum"}) for flight in flights],
                request=[flight.model_dump(include={"distance", "sched_hour"}) for flight in flights],
            )
        except (springhouse.Unavailable, springhouse.Refused) as error:
            raise ServiceUnavailable(str(error)) from error
        except springhouse.InvalidInput as error:
            raise InvalidArgument(str(error)) from error
        # Over Arrow, so that a feature that is null in every row is still a float.
        table = answer.to_arrow().to_pandas().assign(sched_hour=[flight.sched_hour for flight in flights])
        late: list[float] = self.model.predict_proba(table[self.model.feature_names_in_])[:, 1].tolist()
        return late
