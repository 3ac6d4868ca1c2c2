"""Features of a recording's other samples beside a sample's own.

The context of a sample is what the neighbours in its recording look like: bc-LSTM (Poria et al. 2017,
"Context-dependent sentiment analysis in user-generated videos") runs over the utterances of a video. As
features have steps with times anyhow, the utterances become the steps: row i of n has start_s = -i and
step_s = 1, time being counted in samples, and what an encoder says at time 0 is about the row itself.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from mmray.errors import MediaError, SamplesError
from mmray.samples.imported import ImportedStep

__all__ = ["in_context"]


def in_context(
    pattern: str,
    ids: Sequence[str],
    splits: Sequence[str | None],
    own: Sequence[ImportedStep | MediaError],
) -> Iterator[ImportedStep | MediaError]:
    """For every row its whole recording: the mean over the steps of each of its samples, in their order.

    `pattern` cuts an id into recording and place; places are compared as numbers where all of a
    recording's are, else as texts. Rows of another split are never among a row's neighbours: what a model is
    tested on stays out of what it learns from. A neighbour without the feature is left out, and not counted
    in the times; a row without it has none.

    Raises:
        SamplesError: where an id does not match.
    """
    cut = [re.fullmatch(pattern, sample_id) for sample_id in ids]
    if strange := [sample_id for sample_id, match in zip(ids, cut) if match is None]:
        raise SamplesError(
            f"context {pattern!r}: {len(strange)} ids do not match, for example {', '.join(strange[:3])}"
        )
    means = [
        None if isinstance(step, MediaError) else np.mean(np.asarray(step.value), axis=0) for step in own
    ]
    recordings: dict[tuple, list[tuple[str, int]]] = defaultdict(list)
    keys = [(match and match[1], split) for match, split in zip(cut, splits)]
    for row, (match, key) in enumerate(zip(cut, keys)):
        if match and means[row] is not None:
            recordings[key].append((match[2], row))
    for members in recordings.values():
        numeric = all(place.isdecimal() for place, _ in members)
        members.sort(key=lambda member: int(member[0]) if numeric else member[0])
    for row, (step, key) in enumerate(zip(own, keys)):
        if isinstance(step, MediaError):
            yield step
            continue
        rows = [member for _, member in recordings[key]]
        yield ImportedStep(np.stack([means[r] for r in rows]), -float(rows.index(row)), 1.0)  # pyright: ignore
