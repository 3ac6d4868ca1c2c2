"""A folder of media files → rows: files of one name, up to its last dot, are one sample.

Only media make samples (and texts, where texts are asked for); files that tell of them (`.txt`, `.json`,
`.cls`) belong to the sample of their name. What else lies there is left, and said.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from mmray.samples.manifest import EXTENSIONS
from mmray.samples.raw import FIELDS, LABEL, TEXT, File, RawRow, Reading, medium_of, row_of_files, shown_name
from mmray.storage.filesystem import Storage
from mmray.storage.uris import parent

__all__ = ["folder_rows"]

SAMPLES_AT_ONCE = 1024
JUNK = (
    *("thumbs.db", "desktop.ini", "icon\r", "~$", "__macosx", "@eadir", "$recycle.bin", "lost+found"),
    "system volume information",
)
PROSE = ("readme", "license", "licence", "copying", "notice", "changelog")


def folder_rows(
    storage: Storage, folder: str, files: dict[str, int], label_from_folder: str | None, reading: Reading
) -> Iterator[RawRow]:
    """A row a sample, in the order of the names; `files` is {URI: bytes} of all files below `folder`.

    The `sample_id` is the path below the folder, without what follows the last dot of the name. With
    `label_from_folder`, that column gets the name of the folder the sample lies in (`cats/7.jpg`: cats).

    Raises:
        StorageError: where a text or JSON file cannot be read.

    """
    base = folder.rstrip("/") + "/"
    samples = _samples(base, files, reading)
    if label_from_folder:
        reading.meet([label_from_folder])

    def row(key: str) -> RawRow:
        own = [
            File(uri.removeprefix(base), _split_name(uri)[1], uri, files[uri], partial(storage.read, uri))
            for uri in samples[key]
        ]
        if not _is_text(key):
            return RawRow(shown_name(key), {}, fault="its name is not UTF-8; rename it")
        found = row_of_files(shown_name(key), key, own, reading, parent(own[0].uri))
        if label_from_folder and "/" in key and not found.fault:
            name = key.split("/")[-2]
            if str(found.values.setdefault(label_from_folder, name)) != name:
                told = f"samples whose JSON has another {label_from_folder!r} than their folder: it is taken"
                reading.note(told, shown_name(key))
        return found

    keys = iter(samples)
    with ThreadPoolExecutor(16) as pool:  # text and JSON are read here, which on S3 is a request each
        while chunk := list(islice(keys, SAMPLES_AT_ONCE)):
            yield from pool.map(row, chunk)


def _samples(base: str, files: Sequence[str] | dict[str, int], reading: Reading) -> dict[str, list[str]]:
    """{key: its files}; files that belong to no sample are noted."""
    found: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for uri in files:
        name = uri.removeprefix(base)
        key, extension = _split_name(name)
        if any(part.lower().startswith(JUNK) for part in name.split("/")):
            continue
        if medium_of(extension) or (extension == TEXT and reading.wants("text") and not _is_prose(name)):
            found.setdefault(key, []).append(uri)
        elif extension in (TEXT, FIELDS, LABEL):
            others.setdefault(key, []).append(uri)
        elif extension in EXTENSIONS:
            told = f"tables (.{extension}), left out; to read one, name it as samples.manifest"
            reading.note(told, shown_name(name))
        else:
            kind = f".{extension}" if extension else "no extension"
            reading.note(f"files of a kind that is not known ({kind}), left out", shown_name(name))
    for key, uris in others.items():
        if key in found:
            found[key] += uris
            continue
        for uri in uris:
            name = uri.removeprefix(base)
            reading.note(
                f"files (.{_split_name(name)[1]}) without a medium of their name, left out", shown_name(name)
            )
    return found


def _split_name(path: str) -> tuple[str, str]:
    """`a/talk.2021.mp4` → (`a/talk.2021`, `mp4`)."""
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if dot else (path, "")


def _is_prose(name: str) -> bool:
    return name.rpartition("/")[2].lower().startswith(PROSE)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
