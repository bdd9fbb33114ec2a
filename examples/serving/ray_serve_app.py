"""Late departures behind Ray Serve: the keys come in, the features come from Springhouse, the model answers.

    springhouse serve &                     # the features, at http://127.0.0.1:8765: see examples/flights/README.md
    cd examples/serving && serve run ray_serve_app:app
    curl -H 'content-type: application/json' localhost:8000 -d '[
        {"origin": "JFK", "carrier": "B6", "tailnum": "N705JB", "distance": 1617, "sched_hour": 17}]'

Needs springhouse, "ray[serve]", scikit-learn, pandas and pyarrow. The model is one of `our_models` of
examples/flights/model.py, kept with `joblib.dump(our_models[0], "late_departure.joblib")`; it knows the names of its
features. Replicas are processes, perhaps on other machines: they ask a server instead of opening the project.
"""

from __future__ import annotations

import os
from typing import Any

import joblib
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import springhouse

KEYS, FIELDS = ("origin", "carrier", "tailnum"), ("distance", "sched_hour")


@serve.deployment(num_replicas=2, max_ongoing_requests=16)
class LateDeparture:
    """Will these flights leave 30 minutes late?"""

    def __init__(self, url: str, model: str) -> None:
        self.store = springhouse.connect(url, timeout=2.0)
        self.model = joblib.load(model)

    async def __call__(self, request: Request) -> JSONResponse:
        """One probability per flight of the body, a list of flights, in their order."""
        try:
            late = await self.late(await request.json())
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": f"the body is no list of flights: {error!r}"}, 400)
        except springhouse.SpringhouseError as error:
            status = 503 if isinstance(error, springhouse.Unavailable | springhouse.Refused) else 400
            return JSONResponse({"error": error.message, "code": error.code, "hint": error.hint}, status)
        return JSONResponse(late)

    async def late(self, flights: list[dict[str, Any]]) -> list[float]:
        if not flights:
            return []
        answer = await self.store.features_async(
            "late_departure",
            [{key: flight[key] for key in KEYS} for flight in flights],
            request=[{field: flight[field] for field in FIELDS} for flight in flights],
        )
        # Over Arrow, so that a feature that is null in every row is still a float.
        table = answer.to_arrow().to_pandas().assign(sched_hour=[flight["sched_hour"] for flight in flights])
        late: list[float] = self.model.predict_proba(table[self.model.feature_names_in_])[:, 1].tolist()
        return late


app = LateDeparture.bind(  # type: ignore[attr-defined]
    os.environ.get("SPRINGHOUSE_URL", "http://127.0.0.1:8765"),
    os.path.abspath(os.environ.get("LATE_DEPARTURE_MODEL", "late_departure.joblib")),
)
