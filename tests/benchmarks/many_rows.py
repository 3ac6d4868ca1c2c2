"""Text rows by the thousand, in partitions of 64: the index, a finished run again, training's small columns.

    python tests/benchmarks/many_rows.py 100000 1000000 [--output s3://bucket/folder] [--extract]

Each step is a process of its own: CPU seconds are the driver's, without actors; its memory is the peak over
what it had after importing, a row. The part files are written here, without Ray, as `mmray extract` would
(`--extract` runs it instead):

    index      the index from the manifest
    again      the same of an unchanged source
    recount    extract on complete part files whose summary is lost: reads a footer a partition
    finished   extract again
    small      ids, splits, groups and labels of all rows, as training holds them
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features: {{words: {{kind: tokens}}}}
extract: {{partition_samples: 64}}
"""

PRELUDE = """
import json, resource, sys, time
import numpy, pandas, pyarrow.parquet, s3fs
from mmray.config import load_config
from mmray.distributed.feeding import load_features
from mmray.samples.index import make_index
from mmray.stages.extract import extract
from mmray.storage.filesystem import Storage
import mmray.training.batches
config, storage = load_config(sys.argv[1]), Storage()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start, cpu = peak(), time.perf_counter(), time.process_time()
{step}
used, bytes = time.process_time() - cpu, peak() - before
told = {{"seconds": time.perf_counter() - start, "cpu_s": used, "bytes": bytes, "ray": "ray" in sys.modules}}
print(json.dumps(told))
"""

STEPS = {
    "index": "make_index(config, storage)",
    "again": "make_index(config, storage)",
    "tables": """
import pyarrow as pa
from concurrent.futures import ThreadPoolExecutor
from mmray.tables.accounting import notes_of
from mmray.tables.features import tables_to_make
from mmray.tables.identity import media_digest, media_keys
from mmray.tables.parts import write_partition
from mmray.tables.schemas import FeatureShape, feature_schema
index, (table,) = make_index(config, storage), tables_to_make(config, ["words"], "cpu", "").values()
schema = feature_schema("words", FeatureShape(None))
def write(partition):
    part = index.read(storage, partition)
    keys, words = media_keys(part, ["text"]), [text.split() for text in part["text"].to_pylist()]
    nothing, ids = [None] * part.num_rows, part["sample_id"].to_pylist()
    columns = [ids, keys, words, [len(w) for w in words], nothing, nothing, nothing]
    rows = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema)
    notes = {**notes_of(rows, "words"), "media": media_digest(rows["sample_id"], keys)}
    write_partition(storage, table.folder, partition, rows, notes)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(write, index.partitions.tolist()))
""",
    "extract": "extract(config)",
    "recount": "assert extract(config)['rows_this_run'] == 0",
    "finished": "assert extract(config)['rows_this_run'] == 0",
    "small": "load_features(config, storage, [])",
}


def run(path: Path, what: str, rows: int) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE.format(step=STEPS[what]), str(path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    told = json.loads(done.stdout.splitlines()[-1])
    wall_s = time.perf_counter() - start
    memory = f"{told['bytes'] / 1e6:7.1f} MB, {told['bytes'] / rows:6.1f} bytes a row"
    ids = sum(len(f"row-{row}") for row in range(rows)) / rows
    print(
        f"{rows:>9} rows  {what:<9} {told['cpu_s']:7.2f} CPU s of this process, {told['seconds']:7.2f} s "
        f"({wall_s:6.2f} s with imports), {memory} (an id has {ids:.0f})",
        flush=True,
    )
    assert told["ray"] == (what == "extract")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", type=int, nargs="*", default=[100_000])
    parser.add_argument("--output", help="where the tables go; default: a temporary folder")
    parser.add_argument("--extract", action="store_true", help="make the tables by `mmray extract`")
    options = parser.parse_args()
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with (folder / "manifest.jsonl").open("w") as manifest:
                for row in range(rows):
                    line = {"sample_id": f"row-{row}", "text": f"text number {row}", "emotion": "happy"}
                    manifest.write(json.dumps(line) + "\n")
            path = folder / "config.yaml"
            output = f"{options.output.rstrip('/')}/{rows}" if options.output else folder / "out"
            path.write_text(CONFIG.format(output=output, data=folder))
            making = "extract" if options.extract else "tables"
            for what in ("index", "again", making, "recount", "finished", "small"):
                run(path, what, rows)


if __name__ == "__main__":
    main()
