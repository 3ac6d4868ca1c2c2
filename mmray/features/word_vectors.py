"""`word_vectors`: words → their vectors in a file (GloVe, word2vec).

A word the file lacks gives no step at all: a zero vector would look like data. The formats, by their first
bytes: GloVe's text (`word x x …` a line), word2vec's text (the same after a line `words dim`) and word2vec's
binary one (the same header, then each word, a space, and its float32 numbers, little-endian; Mikolov et al.
2013, word2vec.c).
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

import numpy as np

from mmray.errors import MediaError, TableError
from mmray.features.base import Dtype, Kind, Pooling, Step
from mmray.features.device import Device
from mmray.features.text import TextSettings, as_words, takes
from mmray.settings import FilePath

__all__ = ["KIND", "WordVectors", "WordVectorsFeature"]


class WordVectorsFeature(TextSettings):
    """Text → the vector of each word, from a GloVe or word2vec file; words it lacks are left out."""

    kind: Literal["word_vectors"]
    path: FilePath
    """GloVe's text format, or word2vec's text or binary one, local or s3://."""
    pooling: Pooling = "none"
    """A vector a word (none), or one a sample: their mean, or the largest of each number."""
    dtype: Dtype = "float32"
    """Of the stored vectors."""


class WordVectors:
    """Words → their vectors, rows of `vectors` float32 [words, dim]; of a word given twice, the first.

    Raises:
        TableError: where the file is none of the formats, or breaks off.

    """

    cut = None

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

    def __call__(self, steps: Sequence[Step]) -> Iterator[Step | MediaError]:
        """The vectors of the words of each text, in their order; `empty` where it knows none."""
        for step in steps:
            found = self.of(step.value)
            yield Step(found) if len(found) else MediaError("empty", "none of the words has a vector")

    def of(self, words: Sequence[str]) -> np.ndarray:
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


def _encoder(feature: WordVectorsFeature, device: Device) -> WordVectors:
    return WordVectors(feature.path)


KIND = Kind(WordVectorsFeature, takes=takes, prepare=as_words, encoder=_encoder, weights="path")
