"""Writes generated ratings as GroupLens does, with the truth beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

if TYPE_CHECKING:
    from ss4rec.data.synth.world import Chunk, World

Format = Literal["shards", "csv"]
GENRES = (
    *("Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
ADJECTIVES = (
    *("Quiet", "Last", "Crimson", "Hidden", "Broken"),
    *("Golden", "Distant", "Second", "Silent", "Restless"),
)
NOUNS = (
    *("River", "Summer", "Letter", "Harbor", "Winter"),
    *("Promise", "Stranger", "Garden", "Station", "Witness"),
)
HEADER = b"userId,movieId,rating,timestamp\n"


def write_movies(path: Path, world: World, seed: int) -> None:
    """Write `movies.csv`: titles in MovieLens' manner (article behind a comma, year in brackets) and 1 to 3 genres."""
    rng = np.random.default_rng([seed, 2])
    titles, genres = [], []
    for movie_id, draw in zip(world.movie_ids_V, rng.random((len(world.movie_ids_V), 7)), strict=True):
        words = f"{ADJECTIVES[int(draw[0] * len(ADJECTIVES))]} {NOUNS[int(draw[1] * len(NOUNS))]} {movie_id}"
        article = ", The" if draw[2] < 0.3 else ""
        titles.append(f"{words}{article} ({1950 + int(draw[3] * 65)})")
        chosen = {GENRES[int(share * len(GENRES))] for share in draw[4:]}
        genres.append("|".join(sorted(chosen)))
    columns = {"movieId": pa.array(world.movie_ids_V), "title": pa.array(titles), "genres": pa.array(genres)}
    # The header is ours: pyarrow would quote it, GroupLens does not.
    path.write_bytes(b"movieId,title,genres\n" + csv_text(pa.table(columns)))


def ratings_text(part: Chunk, world: World, first_user: int) -> bytes:
    """Return the lines of `ratings.csv` for some users, whose ids count up from `first_user`."""
    stars = pa.array([f"{half / 2}" for half in range(11)])
    user_ids_U = first_user + np.arange(len(part.lengths_U))
    columns = {
        "userId": pa.array(np.repeat(user_ids_U, part.lengths_U)),
        "movieId": pa.array(world.movie_ids_V[part.items_T]),
        "rating": stars.take(pa.array((part.ratings_T * 2).astype(np.int64))),
        "timestamp": pa.array(part.times_T),
    }
    return csv_text(pa.table(columns), "none")


def csv_text(table: pa.Table, quoting: Literal["needed", "none"] = "needed") -> bytes:
    """Return the rows of a table as CSV; with `needed` Arrow quotes every string."""
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=False, quoting_style=quoting))
    return bytes(sink.getvalue().to_pybytes())


def write_ratings(path: Path, texts: Iterable[bytes]) -> None:
    """Write `ratings.csv` from the lines of its chunks."""
    with path.open("wb") as stream:
        stream.write(HEADER)
        stream.writelines(texts)


def write_truth(path: Path, summary: dict[str, Any], world: World) -> None:
    """Write `truth.json`: the summary, then for each movie its successors (movie ids, most likely first)."""
    kinds = [world.movie_ids_V[table_VK].tolist() for table_VK in world.successors_2VK]
    table = {
        str(movie): list(lists) for movie, *lists in zip(world.movie_ids_V.tolist(), *kinds, strict=True)
    }
    path.write_text(json.dumps({**summary, "successors": table}) + "\n", encoding="utf-8")


def prepare_there(folder: Path, k_core: int) -> None:
    """Turn the finished files of a folder into a prepared folder; the truth stays beside it."""
    from ss4rec.data.prepare.engine import prepare

    source = folder / "synth"
    source.mkdir()
    for name in ("ratings.csv", "movies.csv"):
        (folder / name).rename(source / name)
    prepare(source, folder / "prepared", k_core=k_core)
    for path in (folder / "prepared").iterdir():
        path.rename(folder / path.name)
    (folder / "prepared").rmdir()
    shutil.rmtree(source)
