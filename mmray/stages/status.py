"""How far a project is, from its output alone: no Ray, no driver, nothing is asked but storage.

Part files say what is done and when; their footers, what failed; the lock, who is at work. So it answers for
a job on any cluster, also for one that died.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mmray import console
from mmray.config import load_config
from mmray.errors import TableError
from mmray.samples.index import Index, index_at
from mmray.storage.filesystem import Storage
from mmray.storage.lock import holder_of
from mmray.storage.uris import absolute
from mmray.tables.parts import partition_of, read_notes

__all__ = ["WATCH_S", "line", "show", "status"]

RECENT_S = 600.0
"""The rate is that of the files written in so long before the last one."""
WATCH_S = 10.0
"""Between two looks of `mmray status --watch`."""
FOOTERS = 1000
"""Of a table that is not complete the failures of so many files are counted, the last ones written."""


@dataclass(frozen=True)
class _Files:
    """What was written, and when: names of part files, seconds since the epoch."""

    parts: dict[int, float]
    others: dict[str, float]

    @classmethod
    def below(cls, storage: Storage, folder: str) -> "_Files":
        parts, others = {}, {}
        for uri, info in storage.find(folder).items():
            name = uri.removeprefix(f"{absolute(folder)}/")
            when = info["LastModified"].timestamp() if "LastModified" in info else float(info["mtime"])
            number = partition_of(name)
            if number is None:
                others[name] = when
            else:
                parts[number] = when
        return cls(parts, others)

    @property
    def last(self) -> float | None:
        """When anything was written last."""
        return max((*self.parts.values(), *self.others.values()), default=None)

    def rate(self, rows_a_part: float) -> float | None:
        """Rows a second, of the last ten minutes in which part files were written."""
        last = max(self.parts.values(), default=0.0)
        recent = [when for when in self.parts.values() if when > last - RECENT_S]
        seconds = last - min(recent, default=last)
        return rows_a_part * (len(recent) - 1) / seconds if seconds else None


def status(path: str) -> dict[str, Any]:
    """How far the project of a config file, or in an output folder, is.

    {output, samples, at_work, stages}: `samples` is {rows, partitions} or None where there is no index yet;
    `at_work` says who holds the output: {stage, host, pid, job, since}; None: nobody. A stage is {stage,
    name, done, total, state, failures, failures_of, rows_per_s, left_s, last_write, age_s}: `done` of
    `total` part files (None: unknown) of one table, or results of a run; `state` is `done`, `begun` or
    `old` (complete, but of other samples than there are now); `failures` {reason: rows} of `failures_of`
    files. Times are UTC and seconds.

    Raises:
        ConfigError: where the file is no config.
        TableError: where nothing was written yet.
    """
    if path.endswith((".yaml", ".yml")):
        config = load_config(path)
        storage, output = Storage(config.storage), config.output
    else:
        storage, output = Storage(), absolute(path).rstrip("/")
    there = storage.names(output)
    holder = holder_of(storage, output)
    if (
        not there & {"samples", "features", "models", "train", "tune", "compare", "predictions"}
        and not holder
    ):
        raise TableError(f"{output}: nothing was written here yet")
    index = (
        index_at(storage, f"{output}/samples") if storage.exists(f"{output}/samples/_index.json") else None
    )
    now = time.time()
    stages = [
        *(
            _table(storage, "extract", f"{output}/features", name, index, now)
            for name in _folders(storage, f"{output}/features")
        ),
        *_results(storage, "train", output, now),
        *_results(storage, "tune", output, now),
        *_results(storage, "compare", output, now),
        *(
            _table(storage, "score", f"{output}/predictions", name, index, now)
            for name in _folders(storage, f"{output}/predictions")
        ),
    ]
    return {
        "output": output,
        "samples": index and {"rows": index.rows, "partitions": len(index.partitions)},
        "at_work": holder,
        "stages": stages,
    }


def _folders(storage: Storage, folder: str) -> list[str]:
    return sorted(name for name in storage.names(folder) if "." not in name)


def _table(
    storage: Storage, stage: str, root: str, name: str, index: Index | None, now: float
) -> dict[str, Any]:
    """A feature's table, or predictions."""
    folder = f"{root}/{name}"
    files = _Files.below(storage, folder)
    summary = storage.read_json(f"{folder}/_summary.json")
    current = {int(number) for number in index.partitions} if index else set()
    done = len(files.parts.keys() & current) if index else len(files.parts)
    total = len(index.partitions) if index else None
    rate = files.rate(index.rows / len(index.partitions)) if index and len(index.partitions) else None
    state = "done" if summary else "begun"
    if (
        summary
        and index
        and "source" in summary
        and summary["media"] != index.media_digest(summary["source"])
    ):
        state = "old"
    if state == "done":
        failures, of = dict(summary.get("failures", {})), done
    else:
        newest = sorted(files.parts, key=lambda number: files.parts[number])[-FOOTERS:]
        counts: Counter[str] = Counter()
        for notes in read_notes(storage, folder, newest):
            counts.update(notes.get("failures", {}))
        failures, of = dict(counts.most_common()), len(newest)
    left = None
    if index and rate and state == "begun":
        left = round((len(index.partitions) - done) / len(index.partitions) * index.rows / rate)
    return {
        "stage": stage,
        "name": name,
        "done": done,
        "total": total,
        "state": state,
        "failures": failures,
        "failures_of": of,
        "rows_per_s": rate and round(rate, 3),
        "left_s": left,
        **_written(max(files.parts.values(), default=files.last), now),
    }


def _results(storage: Storage, stage: str, output: str, now: float) -> Iterator[dict[str, Any]]:
    """Runs of a stage: each a folder that is done when it has its summary."""
    root = f"{output}/{_ROOTS[stage]}"
    for name in _folders(storage, root):
        if stage == "compare" and name == "runs":
            continue
        files = _Files.below(storage, f"{root}/{name}")
        done = bool(files.others.keys() & {"results.json", "_summary.json"})
        if stage == "train" and not done and files.last is None:
            continue
        yield {
            "stage": stage,
            "name": name,
            "done": int(done),
            "total": 1,
            "state": "done" if done else "begun",
            "failures": {},
            "failures_of": 0,
            "rows_per_s": None,
            "left_s": None,
            **_written(files.last, now),
        }


_ROOTS = {"train": "models", "tune": "tune", "compare": "compare"}


def _written(last: float | None, now: float) -> dict[str, Any]:
    if last is None:
        return {"last_write": None, "age_s": None}
    when = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return {"last_write": when, "age_s": max(0, round(now - last))}


# ------------------------------------------------------------------------------------ what is told


def show(found: Mapping[str, Any]) -> None:
    """Print what `status` found."""
    samples, holder = found["samples"], found["at_work"]
    lines = [found["output"]]
    if samples:
        lines.append(f"  samples  {samples['rows']} in {samples['partitions']} partitions")
    job = f", job {holder['job']}" if holder and holder.get("job") else ""
    lines.append(
        f"  at work  mmray {holder.get('stage', '?')}, process {holder.get('pid', '?')}{job} on "
        f"{holder.get('host', '?')}, since {holder.get('since', '?')}"
        if holder
        else "  at work  nobody"
    )
    lines += [f"  {line(stage)}" for stage in found["stages"]]
    console.out.print("\n".join(lines), markup=False, soft_wrap=True)


def line(stage: Mapping[str, Any]) -> str:
    """In one line: `extract  face-84b1 120/1200 files, 12.5 rows/s, 24 min left; last write 3 s ago`."""
    parts = [f"{stage['stage']:<8} {stage['name']}"]
    if stage["stage"] in ("extract", "score"):
        parts[0] += (
            f" {stage['done']}" + (f"/{stage['total']}" if stage["total"] is not None else "") + " files"
        )
    if stage["state"] == "old":
        parts.append("of other samples or media than there are now")
    elif stage["state"] == "done":
        parts.append("done")
    elif stage["rows_per_s"]:
        parts.append(f"{stage['rows_per_s']:.1f} rows/s")
    if stage["left_s"] is not None:
        parts.append(f"{console.duration(stage['left_s'])} left")
    told = ", ".join(parts)
    if stage["failures"]:
        whole = (
            ""
            if stage["state"] != "begun" or stage["failures_of"] >= stage["done"]
            else (f" in the last {stage['failures_of']} files")
        )
        told += (
            "; failed" + whole + ": " + ", ".join(f"{n} {reason}" for reason, n in stage["failures"].items())
        )
    if stage["age_s"] is not None:
        told += f"; last write {console.duration(stage['age_s'])} ago"
    return told
