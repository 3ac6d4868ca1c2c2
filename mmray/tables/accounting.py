"""Reports on partitions → what a whole run did: rows, failures, rates, memory, cost. Arithmetic only.

A partition of a feature is counted by its *notes*. They lie in the footer of its file and depend on its
rows alone: rows, which of them failed and which lack the modality, how often for which reason, a digest,
the sum of lengths. They let a later run count a table without reading it. A *report* on a partition is the
notes of all its features and what the run spent on it: seconds a stage, CPU seconds, bytes fetched, the
peak memory of the actors it went through; only the run that did the work knows these.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import functools
import operator
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.errors import BudgetError

__all__ = ["Tally", "add_seconds", "cost", "failed_rows", "notes_of", "rates"]

BUDGET_ROWS = 256  # the share of failures is judged from this many rows on


def failed_rows(rows: pa.Table) -> np.ndarray:
    """[N] bool: which rows of a feature's table have a failure; an `absent` modality is none."""
    reasons = pc.struct_field(rows["error"], "reason")
    return pc.fill_null(pc.not_equal(reasons, "absent"), False).to_numpy()


def notes_of(rows: pa.Table, feature: str) -> dict[str, Any]:
    """{failed, absent: rows as bits, failures: {reason: rows}, steps} of a partition of a feature's table."""
    failed = failed_rows(rows)
    reasons = pc.struct_field(rows["error"], "reason")
    counts = Counter(reasons.filter(pa.array(failed)).to_pylist())
    return {
        "failed": _bits(failed),
        "absent": _bits(pc.fill_null(pc.equal(reasons, "absent"), False).to_numpy()),
        "failures": dict(sorted(counts.items())),
        "steps": pc.sum(rows[f"{feature}_length"]).as_py() or 0,
    }


def _bits(rows: np.ndarray) -> str:
    """[N] bool as a hexadecimal number: row i is bit i."""
    return np.packbits(rows, bitorder="little").tobytes()[::-1].hex().lstrip("0") or "0"


def add_seconds(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add seconds a stage to those so far."""
    for stage, seconds in more.items():
        total[stage] = total.get(stage, 0.0) + seconds


class FeatureTally:
    """Rows, failures and content of one feature's table."""

    def __init__(self) -> None:
        self.rows_now = 0
        self.failed_rows = 0
        self.digests: dict[int, int] = {}
        """Partition → digest of its rows."""
        self.steps = 0
        self.failures: Counter[str] = Counter()

    def add(self, partition: int, notes: Mapping[str, Any]) -> None:
        """Count a partition by what its file says."""
        self.failed_rows += int(notes["failed"], 16).bit_count()
        self.digests[partition] = int(notes["digest"], 16)
        self.steps += notes["steps"]
        self.failures.update(notes["failures"])

    def summary(self) -> dict[str, Any]:
        """As it is stored beside the table."""
        return {
            "failed_rows": self.failed_rows,
            "failures": dict(self.failures.most_common()),
            "steps": self.steps,
            "content": f"{functools.reduce(operator.xor, self.digests.values(), 0):016x}",
        }


class Tally:
    """Rows and failures of all features' tables together, and what this run spent on those it did itself."""

    def __init__(self, features: Sequence[str]) -> None:
        self.features = {name: FeatureTally() for name in features}
        self.rows = 0
        self.failed_rows = 0
        self.empty_rows = 0
        """Rows that have no feature at all and no failure either: their modalities are absent."""
        self.rows_now = 0
        self.retried = 0
        self.recovered = 0
        self.fetched_bytes = 0
        self.cpu_seconds = 0.0
        self.seconds: dict[str, float] = {}
        self.peak_rss_mb: dict[str, float] = defaultdict(float)

    def add_notes(self, partition: int, rows: int, notes: Mapping[str, Mapping[str, Any]]) -> None:
        """Count a partition of so many rows by what its features' files say.

        A row is failed where any of its features failed, or all are absent.
        """
        failed, empty = 0, -1
        for name, of_feature in notes.items():
            self.features[name].add(partition, of_feature)
            failed |= int(of_feature["failed"], 16)
            empty &= int(of_feature["absent"], 16)
        self.rows += rows
        self.failed_rows += (failed | empty).bit_count()
        self.empty_rows += empty.bit_count()

    def add_report(self, partition: int, report: Mapping[str, Any]) -> None:
        """Count a partition that this run did."""
        self.add_notes(partition, report["rows"], report["notes"])
        for name, rows in report["made"].items():
            self.features[name].rows_now += rows
        self.rows_now += report["rows_now"]
        self.retried += report["retried"]
        self.recovered += report["recovered"]
        self.fetched_bytes += report["fetched_bytes"]
        self.cpu_seconds += report["cpu_seconds"]
        add_seconds(self.seconds, report["seconds"])
        for pool, megabytes in report["peak_rss_mb"].items():
            self.peak_rss_mb[pool] = max(self.peak_rss_mb[pool], megabytes)

    def failures(self) -> list[dict[str, Any]]:
        """{feature, reason, count}, the most frequent first; feature '': rows without any."""
        counts = [
            (-n, name, reason)
            for name, feature in self.features.items()
            for reason, n in feature.failures.items()
        ]
        if self.empty_rows:
            counts.append((-self.empty_rows, "", "absent"))
        return [{"feature": name, "reason": reason, "count": -n} for n, name, reason in sorted(counts)]

    def check_budget(self, max_failed_fraction: float, all_rows: int) -> None:
        """Judge the rows so far.

        Raises:
            BudgetError: where too many of them failed, with the most frequent reasons.
        """
        judged = self.rows >= min(BUDGET_ROWS, all_rows)
        if judged and self.failed_rows > max_failed_fraction * self.rows:
            top = ", ".join(
                f"{f['count']} × {f['feature'] or 'every modality'} {f['reason']}"
                for f in self.failures()[:5]
            )
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
