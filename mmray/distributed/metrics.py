"""What a running stage tells Prometheus, through Ray; scraped from Ray's metrics port of the driver's node.

Ray puts `ray_` before each name; every one has the label `project`.

    mmray_rows_total           rows done                                              stage
    mmray_failures_total       rows whose feature failed                              feature, reason
    mmray_fetched_bytes_total  bytes of media fetched
    mmray_work_seconds_total   seconds of actors: fetch, decode, encode, write, wait  step
    mmray_rows_left            rows of the stage still to do                          stage
    mmray_partitions_left      partitions of the stage still to do: its queue         stage
    mmray_encoder_busy         share of their time that encoders encode, of the run
    mmray_epochs_total         epochs trained                                         stage
    mmray_trials               trials of the search that have begun

They are counted by the driver, from what actors report of each partition: so an actor that dies loses none.
"""

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

__all__ = ["COUNTERS", "GAUGES", "Progress", "count_epoch"]

COUNTERS: dict[str, tuple[str, ...]] = {
    "mmray_rows_total": ("stage",),
    "mmray_failures_total": ("feature", "reason"),
    "mmray_fetched_bytes_total": (),
    "mmray_work_seconds_total": ("step",),
    "mmray_epochs_total": ("stage",),
}
GAUGES: dict[str, tuple[str, ...]] = {
    "mmray_rows_left": ("stage",),
    "mmray_partitions_left": ("stage",),
    "mmray_encoder_busy": (),
    "mmray_trials": (),
}
"""{name: its labels, beside `project`}."""


class Progress:
    """A stage over partitions: what is left of it, and what was done."""

    def __init__(self, project: str, stage: str, *, rows: int, partitions: int, encoders: int = 0):
        self.project, self.stage, self.encoders = project, stage, encoders
        self.rows, self.partitions = rows, partitions
        self.start, self.encoding_s = time.monotonic(), 0.0
        self._tell_left()

    def partition(self, rows: int, report: Mapping[str, Any] | None = None) -> None:
        """Count a partition that is done; `report` as actors of an extraction make it."""
        self.rows -= rows
        self.partitions -= 1
        self._count("mmray_rows_total", rows, stage=self.stage)
        self._tell_left()
        if report is None:
            return
        for feature in report["made"]:
            for reason, count in report["notes"][feature]["failures"].items():
                self._count("mmray_failures_total", count, feature=feature, reason=reason)
        self._count("mmray_fetched_bytes_total", report["fetched_bytes"])
        for step, seconds in report["seconds"].items():
            self._count("mmray_work_seconds_total", seconds, step=step)
        if self.encoders:
            self.encoding_s += report["seconds"].get("encode", 0.0)
            held_s = self.encoders * max(time.monotonic() - self.start, 1e-6)
            _metric("mmray_encoder_busy").set(min(1.0, self.encoding_s / held_s), {"project": self.project})

    def _tell_left(self) -> None:
        labels = {"project": self.project, "stage": self.stage}
        _metric("mmray_rows_left").set(max(0, self.rows), labels)
        _metric("mmray_partitions_left").set(max(0, self.partitions), labels)

    def _count(self, name: str, amount: float, **labels: str) -> None:
        if amount > 0:
            _metric(name).inc(amount, {"project": self.project, **labels})


def count_epoch(project: str, stage: str, trials: int | None = None) -> None:
    """Count an epoch of a training, or of a search with so many trials so far."""
    _metric("mmray_epochs_total").inc(1, {"project": project, "stage": stage})
    if trials is not None:
        _metric("mmray_trials").set(trials, {"project": project})


@cache
def _metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    kind, labels = (Counter, COUNTERS[name]) if name in COUNTERS else (Gauge, GAUGES[name])
    return kind(name, description=name, tag_keys=("project", *labels))
