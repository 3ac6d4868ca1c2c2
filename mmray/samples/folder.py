"""A folder of media files → rows: files with the same name (up to the first dot) are one sample."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice

from mmray.samples.raw import File, RawRow, row_of_files, split_name
from mmray.storage.filesystem import Storage

__all__ = ["folder_rows"]

SAMPLES_AT_ONCE = 1024


def folder_rows(
    storage: Storage, folder: str, files: Sequence[str], label_from_folder: str | None
) -> Iterator[RawRow]:
    """A row a sample, in the order of the names; `files` are the URIs of all files below `folder`.

    The `sample_id` is the path below the folder, without what follows the first dot of the name. With
    `label_from_folder`, that column gets the name of the folder the sample lies in (`cats/7.jpg`: cats).

    Raises:
        StorageError: where a text or JSON file cannot be read.

    """
    base = folder.rstrip("/") + "/"
    samples = groupby(files, key=lambda uri: split_name(uri.removeprefix(base))[0])

    def row(key: str, uris: Sequence[str]) -> RawRow:
        files = [File(split_name(uri)[1], uri, partial(storage.read, uri)) for uri in uris]
        found = row_of_files(key, key, files)
        if label_from_folder and "/" in key:
            found.values.setdefault(label_from_folder, key.split("/")[-2])
        return found

    with ThreadPoolExecutor(16) as pool:  # text and JSON are read here, which on S3 is a request each
        while chunk := [(key, list(uris)) for key, uris in islice(samples, SAMPLES_AT_ONCE)]:
            yield from pool.map(row, *zip(*chunk, strict=True))
