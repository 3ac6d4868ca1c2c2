"""Which samples must not be separated, which split each is in, and whether the splits are apart.

A model is judged on what it has not seen. Two cuts of one recording, or two sentences of one speaker, are
not that: what they share is learned in training and found again in the test. So a split is drawn for a
*group*, by a hash of what its samples share, which depends neither on the other samples, nor on their order,
nor on where the files lie. Groups, or media, that stand in two splits all the same (given ones may do that)
are `leaks`.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmray.config.samples import IdPattern, SplitConfig
from mmray.errors import SamplesError
from mmray.samples.labels import label, shown

__all__ = [
    "SPLITS",
    "Group",
    "Leak",
    "group_of",
    "leaks",
    "refuse_leaks",
    "split_of",
    "split_read",
    "two_tests",
]

SPLITS = ("train", "val", "test")
NAMES = {
    "train": "train training trn tr fit",
    "val": "val valid validation validate vld dev devel development",
    "test": "test testing tst eval evaluation holdout",
}
_SPLIT = {name: split for split, names in NAMES.items() for name in names.split()}
_NAMED = re.compile(r"(\w+?)[ _-]?(?:set|split|data)?", re.ASCII)
"""`train_set`, `validation split` → its first word."""
MEDIA = ("video", "audio", "image")
EXAMPLES = 3


def split_read(value: str) -> str:
    """`train`, `val` or `test`, also by its other names (`validation`, `dev`, `Test`, `test_set` …).

    Raises:
        ValueError: where it is none of them.
    """
    if (named := _NAMED.fullmatch(value.strip().lower())) and (found := _SPLIT.get(named[1])):
        return found
    raise ValueError(f"{shown(value)} is not one of {', '.join(SPLITS)}")


def two_tests(column: str, spelled: Collection[str]) -> list[str]:
    """The fault of a column, its splits spelled so in small letters, in which `eval` may mean validation."""
    evals = sorted(name for name in spelled if name.startswith("eval"))
    tests = sorted(name for name in spelled if split_read(name) == "test" and name not in evals)
    if not evals or not tests:
        return []
    return [f"{column}: is {evals[0]!r} beside {tests[0]!r} validation or test? Name it val or test"]


class Group(NamedTuple):
    """What a sample must not be separated from."""

    name: str
    draw: str
    """What its split is drawn by: the name, but for media without the folder they start at."""
    own: bool = False
    """It has nothing to share with others."""


def group_of(
    sample_id: str, media: Mapping[str, str | None], folder: str | None, given: Any, split: SplitConfig
) -> Group:
    """The group of a sample, as `samples.split.group` says it.

    `media` are its URIs, `folder` is where they start (None: they are the sample's own, a file or a member of
    its name), `given` is the value of the column that the setting names.

    Raises:
        ValueError: where its id does not match, or the value is no name.
    """
    if isinstance(split.group, IdPattern):
        found = re.search(split.group.regex, sample_id)
        if not found:
            raise ValueError(
                f"samples.split.group: {split.group.regex!r} finds nothing in {shown(sample_id)}"
            )
        name = (found[1] if found.re.groups else found[0]) or ""
        return Group(name, name)
    if split.group is not None:
        name = "" if given is None else label(given)
        return Group(name, name) if name else Group(sample_id, sample_id, own=True)
    for medium in MEDIA:
        if uri := media.get(medium):
            return Group(uri, sample_id if folder is None else uri.removeprefix(f"{folder.rstrip('/')}/"))
    return Group(sample_id, sample_id)


def split_of(draw: str, split: SplitConfig) -> str:
    """The split of a group, by a hash, so that it never changes; or by its fold, where there are folds."""
    share = _share(f"{split.seed}:{draw}")
    if split.folds:
        if int(share * split.folds) == split.fold:
            return "test"
        return "val" if _share(f"{split.seed}:val:{draw}") < split.val else "train"
    if share < split.test:
        return "test"
    return "val" if share < split.test + split.val else "train"


def _share(text: str) -> float:
    """A number from 0 to 1 by the hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


# ------------------------------------------------------------------------------------ leaks


@dataclass(frozen=True)
class Leak:
    """Groups, or media of one kind, that stand in more than one split."""

    kind: str
    """`group`, `video`, `audio` or `image`."""
    count: int
    rows: dict[str, int]
    """Split → rows of these groups in it."""
    of: dict[str, int]
    """Split → rows in it."""
    examples: list[str]

    def __str__(self) -> str:
        noun = {"group": "groups stand", "image": "images stand"}.get(self.kind, f"{self.kind} files stand")
        noun = noun if self.count > 1 else noun.replace("s stand", " stands")
        shares = ", ".join(f"{self.rows[split]} of {self.of[split]} {split} rows" for split in self.rows)
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.count} {noun} in several splits: {shares} ({', '.join(self.examples)}{more})"


def leaks(samples: pa.Table) -> list[Leak]:
    """What stands in several splits; samples without a split are in none.

    `samples` has the columns `split`, `group` and, those there are of the media.
    """
    found: list[Leak] = []
    splits = samples.filter(pc.is_valid(samples["split"]))
    of = dict(zip(*_counts(splits["split"]), strict=True))
    for kind in ("group", *MEDIA):
        if kind not in splits.column_names:
            continue
        known = splits.select([kind, "split"]).filter(pc.is_valid(splits[kind]))
        split_counts = known.group_by(kind).aggregate([("split", "count_distinct")])
        torn = split_counts.filter(pc.greater(split_counts["split_count_distinct"], 1))[kind]
        if not len(torn):
            continue
        rows = dict(zip(*_counts(known.filter(pc.is_in(known[kind], value_set=torn))["split"]), strict=True))
        if kind in MEDIA and found and found[0].rows == rows and found[0].count == len(torn):
            continue  # the groups are these media
        names = [shown(name) for name in torn.slice(0, EXAMPLES).to_pylist()]
        found.append(Leak(kind, len(torn), _ordered(rows), _ordered(of), names))
    return found


def refuse_leaks(found: Sequence[Leak], split: SplitConfig) -> None:
    """End where the config is strict about splits.

    Raises:
        SamplesError: with all that stands in two splits.
    """
    if found and split.strict:
        lines = "\n".join(f"  {leak}" for leak in found)
        raise SamplesError(
            f"the splits are not apart (samples.split.strict):\n{lines}\n"
            "leave the split column out to have splits drawn by group, or mend it"
        )


def _counts(column: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counts = pc.value_counts(column)
    return counts.field("values").to_pylist(), counts.field("counts").to_pylist()


def _ordered(rows: Mapping[str, int]) -> dict[str, int]:
    return {split: rows[split] for split in (*SPLITS, *sorted(set(rows) - {*SPLITS})) if split in rows}
