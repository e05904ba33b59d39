"""Large compressed CSV files, block by block: whole records, columns found by name."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import polars as pl
    from polars._typing import PolarsDataType

__all__ = ["BLOCK_BYTES", "CsvFile"]

BLOCK_BYTES = 32 << 20


class CsvFile:
    """A CSV file, compressed by gzip or not, of which one block is in memory at a time.

    Args:
        path: the file.
        columns: the columns to read and their types; the file may have others, in any order.
        block_bytes: size of a block, uncompressed.
        advance: called with the number of bytes on the disk that were read since the last call.

    Raises:
        ValueError: if a column is not there.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, PolarsDataType],
        *,
        block_bytes: int = BLOCK_BYTES,
        advance: Callable[[int], object] = lambda n_bytes: None,
    ) -> None:
        self.path, self.columns, self.block_bytes, self.advance = path, dict(columns), block_bytes, advance
        with self._open() as (_, file):
            self.header = file.readline()
        names = self.header.decode().strip().replace('"', "").split(",")
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(f"{path} must have the columns {missing}, however it has {names}")

    def blocks(self) -> Iterator[bytes]:
        """Yield the records in blocks, at least one; the blocks are the same at every call.

        Raises:
            ValueError: if the file is cut off or damaged.
        """
        with self._open() as (raw, file):
            file.readline()
            rest, position, n_blocks = b"", 0, 0
            while chunk := file.read(self.block_bytes):
                self.advance(raw.tell() - position)
                position = raw.tell()
                block = rest + chunk
                end = _end_of_records(block)
                rest = block[end:]
                if end:
                    n_blocks += 1
                    yield block[:end]
            if rest or n_blocks == 0:
                yield rest

    def parse(self, block: bytes) -> pl.DataFrame:
        """Return the columns of a block, those that are missing values as null.

        Raises:
            ValueError: if a value is not of its column's type.
        """
        import polars as pl

        as_text = {name: pl.String if kind in (pl.Date, pl.Datetime) else kind for name, kind in self.columns.items()}
        try:
            text = pl.read_csv(
                BytesIO(self.header + block), columns=list(as_text), schema_overrides=as_text, infer_schema_length=0
            )
            return text.select(_converted(name, kind) for name, kind in self.columns.items())
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{self.path} must be a table of {self.columns}, however: {error}") from error

    def read(self) -> pl.DataFrame:
        """Return the columns of the whole file."""
        import polars as pl

        return pl.concat([self.parse(block) for block in self.blocks()])

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Open the bytes on the disk, and the text that they hold."""
        try:
            with self.path.open("rb") as raw:
                if self.path.suffix == ".gz":
                    with gzip.GzipFile(fileobj=raw) as file:
                        yield raw, file  # type: ignore[misc]
                else:
                    yield raw, raw
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{self.path} must be complete, however: {error}; download it again") from error


def _converted(name: str, kind: PolarsDataType) -> pl.Expr:
    """Return a column, dates and times made of text; a date may be given with a time."""
    import polars as pl

    if kind == pl.Date:
        return pl.col(name).str.head(10).str.to_date("%Y-%m-%d")
    if kind == pl.Datetime:
        return pl.col(name).str.head(19).str.to_datetime("%Y-%m-%d %H:%M:%S")
    return pl.col(name)


def _end_of_records(block: bytes) -> int:
    """Return where the last complete record ends: after a line break that is not inside quotes."""
    n_quotes, end = block.count(b'"'), len(block)
    while (line_break := block.rfind(b"\n", 0, end)) >= 0:
        n_quotes -= block.count(b'"', line_break, end)
        if n_quotes % 2 == 0:
            return line_break + 1
        end = line_break
    return 0
