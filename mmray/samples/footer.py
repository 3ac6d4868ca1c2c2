"""How many nulls each column of a Parquet file has, by its footer, whatever bytes that is made of.

pyarrow knows them as well, but `FileMetaData.row_group(i).column(j)` ends the process at some footers that
make no sense (an exception of C++ that nothing catches), so those of strangers are read here: Thrift's
compact protocol, of which the structs of parquet.thrift are made.

Sources: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md,
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import io
from typing import IO, Any

__all__ = ["null_counts"]

MAX_BYTES = 2**28
MAX_DEPTH = 32
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
ROW_GROUPS, COLUMNS, META_DATA, PATH_IN_SCHEMA, STATISTICS, NULL_COUNT = 4, 1, 3, 3, 12, 3
"""Numbers of the fields that lead to a column's count, from the footer's struct inwards."""


def null_counts(opened: IO[bytes]) -> list[dict[str, int]]:
    """{`column`, or `column.field` of a struct: its nulls} of each row group; some columns may not say.

    Raises:
        ValueError: where the file does not end in a footer that can be read.
    """
    size = opened.seek(0, io.SEEK_END)
    opened.seek(max(0, size - 8))
    tail = opened.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > min(size - 8, MAX_BYTES):
        raise ValueError("no footer")
    opened.seek(size - 8 - length)
    try:
        groups = _Compact(opened.read(length)).struct()[ROW_GROUPS]
        return [_of_group(group) for group in groups]
    except (IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"a footer that makes no sense ({type(error).__name__})") from None


def _of_group(group: dict[int, Any]) -> dict[str, int]:
    columns = [chunk[META_DATA] for chunk in group[COLUMNS]]
    return {
        ".".join(part.decode() for part in column[PATH_IN_SCHEMA]): column[STATISTICS][NULL_COUNT]
        for column in columns
        if NULL_COUNT in column.get(STATISTICS, {})
    }


class _Compact:
    """Bytes of the compact protocol; what is read is a dict of field number → value."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a struct."""
        if depth > MAX_DEPTH:
            raise RecursionError
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self._byte()
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint())
        if kind in (LIST, SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self.data) - self.at:  # an element has a byte at least
                raise IndexError
            return [self._element(head & 15, depth) for _ in range(count)]
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise KeyError(kind)  # a map: parquet.thrift has none

    def _element(self, kind: int, depth: int) -> Any:
        """In a list a truth value is a byte of its own."""
        return self._byte() == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth + 1)

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise IndexError
        self.at += count
        return self.data[self.at - count : self.at]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            if (shift := shift + 7) > 63:
                raise IndexError

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
