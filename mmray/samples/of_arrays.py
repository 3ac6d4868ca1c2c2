"""The index of a project, also where its samples are arrays: they are written as a manifest first.

That manifest, `samples/_source.jsonl`, is written again only where it says something else, and is checked,
split and cut as any other: labels of a pickle and of a CSV obey the same rules.
"""

import json

from mmray.config import Config
from mmray.errors import SamplesError
from mmray.samples.arrays import is_manifest, read_arrays
from mmray.samples.checks import plan_sources
from mmray.samples.imported import samples
from mmray.samples.index import Index, make_index
from mmray.samples.split import MEDIA
from mmray.samples.trees import Arrays
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute, join, parent

__all__ = ["names_of", "project_index"]


def project_index(config: Config, storage: Storage, sources: dict[str, Arrays] | None = None) -> Index:
    """The index, brought up to date with its source; the arrays that were read for it are put into `sources`.

    Raises:
        SamplesError: listing what is wrong with the source.
    """
    manifest = config.samples.manifest
    if not isinstance(manifest, str) or is_manifest(manifest) or any(sign in manifest for sign in "*?"):
        return make_index(config, storage)
    source = read_arrays(manifest, storage, names_of(config))
    if sources is not None:
        sources[manifest] = source
    sets = [name for name, target in config.targets.items() if target.kind == "multilabel"]
    keep = [*config.samples.keep, *plan_sources(config)]
    rows = samples(source, config.samples.columns, list(config.targets), sets, keep)
    folder = parent(absolute(manifest))
    for row in rows:
        row |= {medium: join(folder, row[medium]) for medium in MEDIA if isinstance(row.get(medium), str)}
    written = config.path("samples", "_source.jsonl")
    content = "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()
    if not storage.exists(written) or storage.read(written) != content:
        storage.write(written, content)
    own = config.samples.model_copy(update={"manifest": written, "columns": {}})
    try:
        return make_index(config.model_copy(update={"samples": own}), storage)
    except SamplesError as error:  # its faults are of the rows of the arrays
        raise SamplesError(str(error).replace(written, manifest)) from None


def names_of(config: Config) -> list[str]:
    """The names that the config asks for, where they may be those of arrays."""
    features = [getattr(feature, "array", None) or name for name, feature in config.features.items()]
    given = [*config.samples.columns.values(), *config.samples.keep, *config.targets, *features, "split"]
    return [name.partition("[")[0] for name in given]
