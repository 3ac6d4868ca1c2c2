"""Reports on partitions → what a whole run did: rows, failures, rates, memory, cost. Arithmetic only.

A partition is counted twice. Its *notes* lie in the footer of its file and depend on its rows alone: rows,
failed rows, failures by (feature, reason), a digest. They let a later run count a table without reading
it. Its *report* is the notes and what the run spent on it: seconds a stage, CPU seconds, bytes fetched,
the peak memory of the actors it went through; only the run that did the work knows these.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mmray.errors import BudgetError

__all__ = ["Tally", "add_seconds", "cost", "failed_rows", "notes_of", "rates"]

BUDGET_ROWS = 256  # the share of failures is judged from this many rows on


def failures_of(errors: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """(feature, reason) of a row's failures; an `absent` modality is none."""
    return {(error["modality"], error["reason"]) for error in errors if error["reason"] != "absent"}


def failed_rows(rows: pa.Table) -> list[bool]:
    """Which rows of a feature table have a failure."""
    return [bool(failures_of(errors)) for errors in rows["errors"].to_pylist()]


def notes_of(rows: pa.Table) -> dict[str, Any]:
    """{failed_rows, failures: [[feature, reason, rows], …]} of a partition of the feature table."""
    failures = [failures_of(errors) for errors in rows["errors"].to_pylist()]
    by_reason = Counter(pair for pairs in failures for pair in pairs)
    return {
        "failed_rows": sum(map(bool, failures)),
        "failures": sorted([modality, reason, n] for (modality, reason), n in by_reason.items()),
    }


def add_seconds(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add seconds a stage to those so far."""
    for stage, seconds in more.items():
        total[stage] = total.get(stage, 0.0) + seconds


class Tally:
    """Rows and failures of a table, and what this run spent on those it did itself."""

    def __init__(self) -> None:
        self.rows = 0
        self.failed_rows = 0
        self.rows_now = 0
        self.retried = 0
        self.recovered = 0
        self.fetched_bytes = 0
        self.cpu_seconds = 0.0
        self.content = 0
        self.by_reason: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, float] = {}
        self.peak_rss_mb: dict[str, float] = defaultdict(float)

    def add_notes(self, notes: Mapping[str, Any]) -> None:
        """Count a partition by what its file says."""
        self.rows += notes["rows"]
        self.failed_rows += notes["failed_rows"]
        self.content ^= int(notes["digest"], 16)
        self.by_reason.update({(modality, reason): n for modality, reason, n in notes["failures"]})

    def add_report(self, report: Mapping[str, Any]) -> None:
        """Count a partition that this run did."""
        self.add_notes(report["notes"])
        self.rows_now += report["rows_now"]
        self.retried += report["retried"]
        self.recovered += report["recovered"]
        self.fetched_bytes += report["fetched_bytes"]
        self.cpu_seconds += report["cpu_seconds"]
        add_seconds(self.seconds, report["seconds"])
        for pool, megabytes in report["peak_rss_mb"].items():
            self.peak_rss_mb[pool] = max(self.peak_rss_mb[pool], megabytes)

    def failures(self) -> list[dict[str, Any]]:
        """{modality, reason, count}, the most frequent first."""
        ordered = sorted(self.by_reason.items(), key=lambda item: (-item[1], item[0]))
        return [{"modality": m, "reason": r, "count": n} for (m, r), n in ordered]

    def check_budget(self, max_failed_fraction: float, all_rows: int) -> None:
        """Judge the rows so far.

        Raises:
            BudgetError: where too many of them failed, with the most frequent reasons.
        """
        judged = self.rows >= min(BUDGET_ROWS, all_rows)
        if judged and self.failed_rows > max_failed_fraction * self.rows:
            top = ", ".join(f"{f['count']} × {f['modality']} {f['reason']}" for f in self.failures()[:5])
            raise BudgetError(
                f"{self.failed_rows} of {self.rows} samples failed, more than extract.max_failed_fraction "
                f"= {max_failed_fraction:g} allows: {top}; what is written stays: with a higher limit the "
                "same command goes on from there, with --retry-failed it does the failed rows again"
            )


def rates(*, rows: int, fetched_bytes: int, wall_s: float) -> dict[str, float]:
    """{samples_per_s, mb_per_s} of a run; 1 MB is 10⁶ bytes."""
    return {"samples_per_s": rows / wall_s, "mb_per_s": fetched_bytes / 1e6 / wall_s}


def cost(
    *,
    rows: int,
    wall_s: float,
    cpus: float,
    gpus: float,
    price_per_cpu_hour: float | None,
    price_per_gpu_hour: float | None,
) -> float | None:
    """Price of 1,000 samples: what the pools hold is paid while they hold it, busy or not.

        1000 / rows · wall_s / 3600 · (cpus · price_per_cpu_hour + gpus · price_per_gpu_hour)

    None where no price is given, or nothing was done.
    """
    if not rows or (price_per_cpu_hour is None and price_per_gpu_hour is None):
        return None
    per_hour = cpus * (price_per_cpu_hour or 0.0) + gpus * (price_per_gpu_hour or 0.0)
    return 1000 / rows * wall_s / 3600 * per_hour
