"""Counts and rates against figures worked out by hand."""

import pyarrow as pa
import pytest

from mmray.errors import BudgetError
from mmray.tables.accounting import Tally, cost, failed_rows, notes_of, rates
from mmray.tables.schemas import ERROR


def error(reason: str) -> dict:
    return {"stage": "decode", "reason": reason, "detail": "", "attempts": 1}


def rows_with(*reasons: str | None) -> pa.Table:
    errors = [reason and error(reason) for reason in reasons]
    lengths = [0 if reason else 3 for reason in reasons]
    return pa.table({"face_length": lengths, "error": pa.array(errors, ERROR)})


def notes(*reasons: str | None, digest: str = "0") -> dict:
    return {"rows": len(reasons), "digest": digest, **notes_of(rows_with(*reasons), "face")}


def spent(rows: int, **more) -> dict:
    nothing = {"fetched_bytes": 0, "cpu_seconds": 0.0, "seconds": {}, "peak_rss_mb": {}}
    return {"rows": rows, "made": {}, "rows_now": rows, "retried": 0, "recovered": 0, **nothing, **more}


def test_an_absent_modality_is_no_failure():
    rows = rows_with(None, "corrupt", "absent", "corrupt", "empty")
    assert failed_rows(rows).tolist() == [False, True, False, True, True]
    assert notes_of(rows, "face") == {
        "failed": f"{0b11010:x}",
        "absent": f"{0b00100:x}",
        "failures": {"corrupt": 2, "empty": 1},
        "steps": 3,
    }


def test_a_row_counts_once_whatever_failed_of_it_and_one_without_anything_is_a_failure():
    tally = Tally(["face", "voice"])
    tally.add_notes(
        0, 5, {"face": notes("corrupt", None, None, "absent", "absent"),
            "voice": notes("corrupt", "empty", "absent", "absent", None)}
    )  # fmt: skip
    assert (tally.rows, tally.failed_rows, tally.empty_rows) == (5, 3, 1)
    assert tally.failures() == [
        {"feature": "", "reason": "absent", "count": 1},
        {"feature": "face", "reason": "corrupt", "count": 1},
        {"feature": "voice", "reason": "corrupt", "count": 1},
        {"feature": "voice", "reason": "empty", "count": 1},
    ]


def test_many_rows_are_many_bits():
    reasons = ["corrupt" if row % 7 == 0 else None for row in range(1000)]
    tally = Tally(["face"])
    tally.add_notes(0, 1000, {"face": notes(*reasons)})
    assert tally.failed_rows == tally.features["face"].failed_rows == 143


def test_reports_add_up_and_peaks_do_not():
    tally = Tally(["face"])
    of_one = {"face": notes("corrupt", *[None] * 7)}
    for partition, peak, seconds in ((0, 900.0, 1.5), (7, 700.0, 2.0)):
        told = {"seconds": {"decode": seconds}, "peak_rss_mb": {"actors": peak}, "cpu_seconds": 3.0}
        counts = {"fetched_bytes": 10**6, "retried": 3, "recovered": 1, "made": {"face": 8}}
        tally.add_report(partition, {"notes": of_one, **spent(8, **told, **counts)})
    assert (tally.rows, tally.failed_rows, tally.rows_now) == (16, 2, 16)
    assert (tally.retried, tally.recovered, tally.fetched_bytes) == (6, 2, 2 * 10**6)
    assert (tally.seconds, tally.peak_rss_mb, tally.cpu_seconds) == ({"decode": 3.5}, {"actors": 900.0}, 6.0)
    assert tally.failures() == [{"feature": "face", "reason": "corrupt", "count": 2}]
    assert tally.features["face"].rows_now == 16


@pytest.mark.parametrize(
    ("rows", "failed", "all_rows", "stops"),
    [
        (300, 30, 10_000, False),  # exactly the share allowed
        (300, 31, 10_000, True),
        (255, 255, 10_000, False),  # too few to judge
        (20, 3, 20, True),  # but they are all there are
    ],
)
def test_the_budget_is_a_share_of_the_rows_so_far(rows, failed, all_rows, stops):
    tally = Tally(["face"])
    reasons = ["corrupt"] * failed + [None] * (rows - failed)
    tally.add_report(0, {"notes": {"face": notes(*reasons)}, **spent(rows)})
    if not stops:
        return tally.check_budget(0.1, all_rows)
    with pytest.raises(BudgetError, match=rf"{failed} of {rows} samples failed.*{failed} × face corrupt"):
        tally.check_budget(0.1, all_rows)
    return None


def test_rates_and_cost():
    assert rates(rows=900, fetched_bytes=45_000_000, wall_s=30) == {"samples_per_s": 30, "mb_per_s": 1.5}
    # An hour of 4 CPUs at 0.05 and 1 GPU at 2.80 is 3.00; it did 6,000 samples.
    held = {"rows": 6000, "wall_s": 3600, "cpus": 4, "gpus": 1}
    assert cost(**held, price_per_cpu_hour=0.05, price_per_gpu_hour=2.8) == pytest.approx(0.5)
    assert cost(**held, price_per_cpu_hour=0.05, price_per_gpu_hour=None) == pytest.approx(0.2 / 6)
    assert cost(**held, price_per_cpu_hour=None, price_per_gpu_hour=None) is None
    assert cost(**{**held, "rows": 0}, price_per_cpu_hour=1.0, price_per_gpu_hour=1.0) is None
