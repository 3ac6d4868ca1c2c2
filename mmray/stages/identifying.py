"""What a project's output holds that can tell who a person is: column by column, file by file.

By what a column is for, not by what is in it: an id may be a number or a name, and only its owner knows.
"""

from typing import Any

from mmray.config.samples import MEDIA_SOURCES
from mmray.storage.filesystem import Storage
from mmray.tables.parts import done_partitions, open_parquet, read_schema
from mmray.tables.schemas import version_of

__all__ = ["identifying_in"]

OF_INDEX = {
    "sample_id": "names a sample, and a person where ids are made of names",
    "group": "names what samples share: a speaker, a recording",
    "text": "the text itself",
    **{source: "where media lie that show or sound people" for source in MEDIA_SOURCES if source != "text"},
}
MEANS_NOTHING = {"split", "start_s", "end_s", "media_key", *map(version_of, MEDIA_SOURCES)}
QUOTING = {
    "report.html": "ids; frames and texts of samples (off: report.thumbnails: 0, report.texts: false)",
    "evaluations": "ids and labels of samples",
    "explanations": "ids and labels of samples",
}
OF_FEATURE = {
    "text": "words of the text, or vectors made of it",
    "features": "vectors made elsewhere, of what only their maker knows",
}
BIOMETRIC = "vectors of faces or voices can find a person again"


def identifying_in(output: str, storage: Storage) -> list[dict[str, Any]]:
    """[{where, column, why}] below a config's output; of a table the columns, of other files no column."""
    found: list[dict[str, Any]] = []

    def tell(where: str, column: str | None, why: str) -> None:
        found.append({"where": where, "column": column, "why": why})

    for name in sorted(storage.names(f"{output}/samples")):
        if name.startswith("samples-"):
            for column in _columns(storage, f"{output}/samples/{name}"):
                if why := OF_INDEX.get(column):
                    tell("samples", column, why)
                elif column not in MEANS_NOTHING:
                    tell("samples", column, "kept from the source, or a label: look whether it tells who")
            break
    if "_source.jsonl" in storage.names(f"{output}/samples"):
        tell("samples/_source.jsonl", None, "ids and labels of the imported arrays")
    for folder in sorted(storage.names(f"{output}/features")):
        summary = storage.read_json(f"{output}/features/{folder}/_summary.json")
        if summary:
            tell(f"features/{folder}", "sample_id", OF_INDEX["sample_id"])
            why = OF_FEATURE.get(summary["source"], BIOMETRIC)
            tell(f"features/{folder}", summary["feature"], why)
    for folder in sorted(storage.names(f"{output}/predictions")):
        where = f"{output}/predictions/{folder}"
        if done_partitions(storage, where):
            tell(f"predictions/{folder}", "sample_id", OF_INDEX["sample_id"])
            if "embedding" in read_schema(storage, where).names:
                tell(f"predictions/{folder}", "embedding", BIOMETRIC)
    for name in sorted(storage.names(output) & QUOTING.keys()):
        tell(name, None, QUOTING[name])
    for run in sorted(storage.names(f"{output}/models")):
        tell(f"models/{run}", None, "vocabularies of words; what a model has learned of samples")
    return found


def _columns(storage: Storage, uri: str) -> list[str]:
    with open_parquet(storage, uri) as file:
        return file.schema_arrow.names
