"""A file of word vectors (GloVe, word2vec) → a table of them; words → the vectors of those it knows.

A word the file lacks gives no step at all: a zero vector would look like data. The formats, by their first
bytes: GloVe's text (`word x x …` a line), word2vec's text (the same after a line `words dim`) and word2vec's
binary one (the same header, then each word, a space, and its float32 numbers, little-endian; Mikolov et al.
2013, word2vec.c).
"""

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from mmray.errors import TableError

__all__ = ["WordVectors"]


class WordVectors:
    """Vectors float32 [words, dim] by word; of a word given twice, the first.

    Raises:
        TableError: where the file is none of the formats, or breaks off.

    """

    def __init__(self, path: str):
        try:
            with open(path, "rb") as file:
                words, vectors = _read(file)
        except (OSError, ValueError) as error:
            raise TableError(f"word vectors {path} cannot be read: {error}") from error
        if not np.isfinite(vectors).all():
            raise TableError(f"word vectors {path} hold numbers that are not finite")
        self.vectors = vectors
        self.row = {word: row for row, word in reversed(list(enumerate(words)))}
        self.dim = vectors.shape[1]

    def __call__(self, words: Sequence[str]) -> np.ndarray:
        """float32 [T, dim] of the words it knows, in their order; T is 0 where it knows none."""
        rows = [self.row[word] for word in words if word in self.row]
        return self.vectors[rows]


def _read(file: BinaryIO) -> tuple[list[str], np.ndarray]:
    first = file.readline()
    header = first.split()
    if len(header) == 2 and all(part.isdigit() for part in header):
        count, dim = map(int, header)
        begin = file.tell()
        if not _is_text(file.readline(), dim):
            file.seek(begin)
            return _read_binary(file, count, dim)
        file.seek(begin)
        words, vectors = _read_text(file, dim, first_line=2)
        if len(words) != count:
            raise ValueError(f"{len(words)} words; its first line says {count}")
        return words, vectors
    file.seek(0)
    return _read_text(file, len(first.split(b" ")) - 1, first_line=1)


def _is_text(line: bytes, dim: int) -> bool:
    try:
        _numbers(line, dim)
    except ValueError:
        return False
    return True


def _numbers(line: bytes, dim: int) -> tuple[str, np.ndarray]:
    # From the right: some words have spaces in them.
    word, *numbers = line.rstrip(b" \r\n").rsplit(b" ", dim)
    if len(numbers) != dim or not dim:
        raise ValueError(f"not a word and {dim} numbers")
    return word.decode("utf-8"), np.array(numbers, dtype=np.float32)


def _read_text(file: BinaryIO, dim: int, first_line: int) -> tuple[list[str], np.ndarray]:
    words, vectors = [], []
    for number, line in enumerate(file, start=first_line):
        try:
            word, vector = _numbers(line, dim)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        words.append(word)
        vectors.append(vector)
    if not words:
        raise ValueError("it is empty")
    return words, np.stack(vectors)


def _read_binary(file: BinaryIO, count: int, dim: int) -> tuple[list[str], np.ndarray]:
    vectors, words = np.zeros((count, dim), "<f4"), []
    for row in range(count):
        word = bytearray()
        while (letter := file.read(1)) != b" ":
            if not letter:
                raise ValueError(f"it ends after {row} of {count} words")
            word += letter
        numbers = file.read(4 * dim)
        if len(numbers) != 4 * dim:
            raise ValueError(f"it ends in word {row + 1} of {count}")
        vectors[row] = np.frombuffer(numbers, "<f4")
        words.append(word.lstrip(b"\n").decode("utf-8"))
    return words, vectors
