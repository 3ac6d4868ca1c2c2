"""Counts and rates against figures worked out by hand."""

import pyarrow as pa
import pytest

from mmray.errors import BudgetError
from mmray.tables.accounting import Tally, cost, failed_rows, notes_of, rates
from mmray.tables.schemas import ERRORS


def error(modality: str, reason: str) -> dict:
    return {"stage": "decode", "modality": modality, "reason": reason, "detail": "", "attempts": 1}


ROWS = pa.table(
    {
        "errors": pa.array(
            [
                [],
                [error("face", "corrupt"), error("voice", "corrupt")],
                [error("face", "absent")],
                [error("face", "corrupt"), error("face", "corrupt"), error("voice", "absent")],
            ],
            ERRORS.type,
        )
    }
)


def report(rows: int, failed: int, **more) -> dict:
    failures = [["face", "corrupt", failed]] if failed else []
    notes = {"rows": rows, "failed_rows": failed, "failures": failures, "digest": f"{rows:x}"}
    spent = {"fetched_bytes": 0, "cpu_seconds": 0.0, "seconds": {}, "peak_rss_mb": {}}
    return {"notes": notes, "rows_now": rows, "retried": 0, "recovered": 0, **spent, **more}


def test_a_row_counts_once_a_reason_and_an_absent_modality_is_no_failure():
    assert failed_rows(ROWS) == [False, True, False, True]
    assert notes_of(ROWS) == {
        "failed_rows": 2,
        "failures": [["face", "corrupt", 2], ["voice", "corrupt", 1]],
    }


def test_reports_add_up_and_peaks_do_not():
    tally = Tally()
    tally.add_notes(report(5, 1)["notes"])
    for peak, seconds in ((900.0, 1.5), (700.0, 2.0)):
        spent = {"seconds": {"decode": seconds}, "peak_rss_mb": {"actors": peak}, "cpu_seconds": 3.0}
        tally.add_report(report(8, 2, fetched_bytes=10**6, retried=3, recovered=1, **spent))
    assert (tally.rows, tally.failed_rows, tally.rows_now) == (21, 5, 16)
    assert (tally.retried, tally.recovered, tally.fetched_bytes) == (6, 2, 2 * 10**6)
    assert (tally.seconds, tally.peak_rss_mb, tally.cpu_seconds) == ({"decode": 3.5}, {"actors": 900.0}, 6.0)
    assert tally.failures() == [{"modality": "face", "reason": "corrupt", "count": 5}]


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
    tally = Tally()
    tally.add_report(report(rows, failed))
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
