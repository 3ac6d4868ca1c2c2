"""Text rows by the thousand: seconds and peak memory of the first run, of a finished one, of a resume.

    python tests/benchmarks/many_rows.py 10000 100000 1000000

Each run is a process of its own. "finished" is the same command again; "recount" is it after the loss of
the summary, as a driver killed at the very end leaves the table: it reads a footer a partition.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
output: {output}
samples: {{manifest: {data}}}
targets: {{emotion: {{kind: classification}}}}
features: {{words: {{kind: tokens}}}}
extract: {{partition_samples: {samples}}}
"""

RUN = """
import json, resource, sys, time
from mmray.config import load_config
from mmray.stages.extract import extract
start = time.perf_counter()
summary = extract(load_config(sys.argv[1]))
told = {"rows": summary["rows"], "now": summary["rows_this_run"], "ray": "ray" in sys.modules}
told["seconds"] = round(time.perf_counter() - start, 2)
told["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
print(json.dumps(told))
"""


def run(path: Path, what: str) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    told = json.loads(done.stdout.splitlines()[-1])
    wall_s = time.perf_counter() - start
    print(
        f"{told['rows']:>9} rows  {what:<9} {wall_s:7.1f} s, {told['peak_mb']} MB in the driver", flush=True
    )
    assert (told["now"] == 0) == (what != "first")
    assert told["ray"] == (what == "first")


def main() -> None:
    for rows in map(int, sys.argv[1:] or ("10000", "100000")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with (folder / "manifest.jsonl").open("w") as manifest:
                for row in range(rows):
                    line = {"sample_id": f"row-{row}", "text": f"text number {row}", "emotion": "happy"}
                    manifest.write(json.dumps(line) + "\n")
            path = folder / "config.yaml"
            path.write_text(
                CONFIG.format(output=folder / "out", data=folder / "manifest.jsonl", samples=2000)
            )
            run(path, "first")
            run(path, "finished")
            (folder / "out/features/_summary.json").unlink()
            run(path, "recount")


if __name__ == "__main__":
    main()
