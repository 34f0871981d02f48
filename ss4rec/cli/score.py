"""`ss4rec score`: scores of given pairs of user and item."""

from __future__ import annotations

from pathlib import Path

import click

from ss4rec.cli.recommend import (
    chosen_histories,
    format_option,
    histories_options,
    moment,
    perform,
    running_options,
)


@click.command("score")
@histories_options
@click.option(
    "--pairs", required=True, metavar="FILE", help="CSV, TSV or Parquet with columns `user` and `item`."
)
@click.option("--at", metavar="TIME", help="Score at this moment; default as for `recommend`.")
@click.option(
    "--layout",
    type=click.Choice(["lists", "pairs"]),
    default="pairs",
    show_default=True,
    help="A row per pair, or a row per user.",
)
@format_option
@running_options
def score_command(
    run_dir: Path,
    data: Path | None,
    histories: str | None,
    columns: dict[str, str],
    context: tuple[str, ...],
    out: str,
    pairs: str,
    at: str | None,
    layout: str,
    kind: str,
    workers: int,
    gpu: bool,
    address: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the score of given items for given users, for each user from the best to the worst.

    Scores compare within a user only. The folder is like that of `recommend`.
    """
    from ss4rec.io.paths import to_path
    from ss4rec.recommendations.beside import Beside
    from ss4rec.recommendations.options import RecommendOptions

    options = RecommendOptions.of(k=1, seen="kept", at_s=moment(at), layout=layout, format=kind)
    given = chosen_histories(data, histories, columns, context)
    beside = Beside(pairs=to_path(pairs))
    perform(run_dir, out, given, options, beside, workers, gpu, address, overwrite, as_json)
