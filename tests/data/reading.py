"""Reads a source in every way in which `prepare` may read it, and checks that all agree."""

from pathlib import Path

from ss4rec.data.prepare.chunks import parse_chunk, source_chunks
from ss4rec.data.sources import Rules, Source, TableOptions
from ss4rec.data.sources.checks import concatenated
from ss4rec.data.sources.text import QuotesFoundError

ALL = Rules(max_bad_share=1.0)


def write(folder: Path, files):
    """Write files (text, bytes, or what writes itself to a path) into a new folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tuples(parsed):
    """Return (user, item, seconds, rating) of each row that can be used."""
    columns = (
        parsed.users.to_pylist(),
        parsed.items.to_pylist(),
        parsed.times_R.tolist(),
        parsed.ratings_R.tolist(),
    )
    return list(zip(*columns, strict=True))


def chunked(source, block_bytes, rules=ALL):
    """Read a source as tasks do, in chunks of some size."""
    try:
        chunks, known = source_chunks(source, block_bytes)
        parsed = [parse_chunk(source, rules, chunk) for chunk in chunks]
    except QuotesFoundError:
        return chunked(source.with_quotes(), block_bytes, rules)
    assert known in (None, len(parsed))
    return concatenated(parsed, source.plan.first_row)


def read(path, columns=None, rules=ALL, blocks=(7, 60, 1000), **options):
    """Return the rows of a source, read at once and in chunks of several sizes."""
    source = Source.open(path, TableOptions(columns or {}, **options))
    whole = source.read(rules)
    for size in blocks:
        parts = chunked(source, size, rules)
        assert tuples(parts) == tuples(whole)
        assert parts.numbers_R.tolist() == whole.numbers_R.tolist()
        assert parts.quarantine["row"].to_pylist() == whole.quarantine["row"].to_pylist()
    return tuples(whole)


def reasons(path, columns=None, **options):
    """Return (row, reason) of the rows that were put aside."""
    bad = Source.open(path, TableOptions(columns or {}, **options)).read(ALL).quarantine
    return list(zip(bad["row"].to_pylist(), bad["reason"].to_pylist(), strict=True))
