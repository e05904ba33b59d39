"""Films: how do critics rate a film, from its people, its topics, its companies and its release?

17,130 films with a critics' rating from 0 to 10. What follows a release is never read: other ratings and their counts,
box office, awards. Who wrote or produced a film is often unknown; a modality without an entry counts as missing.

Source: `movies.db` of the package `bokeh-sampledata` (OMDb, CC0), of which nothing is imported.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from examples.datasets._files import packaged_file
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import multi_hot, one_hot, random_split, standardize

__all__ = ["SOURCE", "Film", "load_films", "read_films"]

_REQUIREMENT = "bokeh-sampledata==2026.1"
_SHA256 = "1d9c6a02e488d0354b2309e16130c58820a91ac2ce417e814c5964f9579a65ac"
_N_PEOPLE, _N_LANGUAGES, _N_COUNTRIES, _N_COMPANIES = 256, 50, 50, 200
_QUERY = """
    SELECT Title, Director, Writer, "Cast", Genre,
        Language, Country, Production, Year, Runtime, Released, tomatoes.Rating
    FROM omdb JOIN tomatoes ON omdb.ID = tomatoes.ID
    WHERE tomatoes.Rating IS NOT NULL
    ORDER BY omdb.ID
"""


def load_films(split: int = 0) -> MultimodalData:
    """Load the films, 70 / 15 / 15 at random: people, topics, companies, release.

    * people (256,): directors, writers and cast, the leading directions of their TF-IDF matrix.
    * topics: all genres, the 50 most frequent languages and countries, 0 or 1.
    * companies (200,): the most frequent ones, 0 or 1.
    * release: year, runtime and whether it is unknown, month.

    All of this is fitted to the training films. The target is the rating above the training films' mean, in points.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    films = read_films()
    ratings = torch.tensor([film.rating for film in films], dtype=torch.float32).unsqueeze(1)  # (N, 1)
    rows = random_split(len(films), split)
    targets = ratings - ratings[rows[0]].mean()
    available = torch.tensor([[bool(film.people), bool(film.topics), bool(film.companies), True] for film in films])

    everything = Split(_encode(films, rows[0]), targets, available)
    train, validation, test = (everything.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=("people", "topics", "companies", "release"),
        output_names=("critics' rating",),
        task="regression",
        metrics=("r2", "mae", "correlation"),
    )


@dataclass(frozen=True)
class Film:
    """What is known of a film before its release, and the critics' rating."""

    title: str
    people: list[str]
    genres: list[str]
    languages: list[str]
    countries: list[str]
    companies: list[str]
    year: float
    runtime: float  # minutes, NaN where unknown
    month: str
    rating: float

    @property
    def topics(self) -> list[str]:
        """Genres, languages and countries."""
        return [*self.genres, *self.languages, *self.countries]


def read_films() -> list[Film]:
    """Read the films as they are, for features of your own.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    path = packaged_file("bokeh_sampledata", _REQUIREMENT, "_data/movies.db", _SHA256)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        return [
            Film(
                title=title,
                people=[*_names(director), *_names(writer), *_names(cast)],
                genres=_names(genre),
                languages=_names(language),
                countries=_names(country),
                companies=_names(company),
                year=float(year),
                runtime=float("nan") if runtime is None else runtime,
                month=released[5:7],
                rating=rating,
            )
            for title, director, writer, cast, genre, language, country, company, year, runtime, released, rating in (
                database.execute(_QUERY)
            )
        ]


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _encode(films: list[Film], train: Tensor) -> list[Tensor]:
    """Return the four modalities (N, F_i)."""
    topics = (
        multi_hot([film.genres for film in films], train),
        multi_hot([film.languages for film in films], train, _N_LANGUAGES),
        multi_hot([film.countries for film in films], train, _N_COUNTRIES),
    )
    companies = multi_hot([film.companies for film in films], train, _N_COMPANIES)
    numbers = standardize(np.array([[film.year, film.runtime] for film in films]), train)
    months = one_hot([film.month for film in films], train)
    return [
        _directions([film.people for film in films], train),
        torch.cat(topics, dim=1),
        companies,
        torch.cat([numbers, months], dim=1),
    ]


def _directions(sets: list[list[str]], train: Tensor) -> Tensor:
    """Return the 256 leading directions of the sets' TF-IDF matrix, scaled to unit variance on average."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = TfidfVectorizer(analyzer=list, min_df=2).fit([sets[row] for row in train]).transform(sets)
    directions = TruncatedSVD(_N_PEOPLE, n_iter=2, random_state=0).fit(texts[train.numpy()]).transform(texts)
    return torch.from_numpy(directions / directions[train.numpy()].std()).float()


SOURCE = Source(
    load=lambda root, split: load_films(split),
    where=f"pip install {_REQUIREMENT}",
    expected=Expected(17_130, (11_991, 2_570, 2_569), ((_N_PEOPLE,), (None,), (_N_COMPANIES,), (15,)), 1),
    n_splits=None,
)
