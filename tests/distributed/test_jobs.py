"""The log of a job whose connection is cut: every line once, the job's own exit code."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from mmray import console
from mmray.distributed import jobs
from mmray.errors import WorkerError

LOG = "".join(f"line {n}\n" for n in range(100))


class Dashboard:
    """Stands in for Ray's client: a log that grows, connections that end after so many characters."""

    def __init__(self, cuts: list[int | Exception], outages: int = 0, code: int | None = 3):
        self.cuts = cuts
        self.outages = outages
        self.code = code
        self.asked = 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        cut = self.cuts.pop(0) if self.cuts else len(LOG)
        end = cut if isinstance(cut, int) else len(LOG) // 2
        for start in range(0, end, 37):  # lines come in pieces of any length
            yield LOG[start : min(start + 37, end)]
        if isinstance(cut, Exception):
            raise cut

    def get_job_logs(self, job: str) -> str:
        return LOG

    def _status(self) -> SimpleNamespace:
        self.asked += 1
        if self.asked <= self.outages:
            raise ConnectionError("refused")
        return SimpleNamespace(value="RUNNING" if self.cuts else "FAILED")

    def get_job_status(self, job: str) -> SimpleNamespace:
        return self._status()

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(driver_exit_code=self.code, status=self._status(), message="it died")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    async def soon(seconds: float) -> None:
        """Waits between tries are not what is tested."""

    monkeypatch.setattr(jobs.asyncio, "sleep", soon)
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)


def printed(capsys) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "cuts",
    [
        [],
        [0, 1, 100, 50],
        [RuntimeError("WebSocket connection closed"), 10, ConnectionResetError("reset"), 300],
    ],
    ids=["whole", "ended early", "broken"],
)
def test_every_line_is_printed_once_and_the_code_is_the_jobs(cuts, capsys):
    assert jobs.follow_job(Dashboard(cuts), "job", "http://head:8265", console.out) == 3
    assert printed(capsys) == LOG


def test_what_the_log_said_after_the_cut_is_printed_at_the_end(capsys):
    dashboard = Dashboard([120])
    dashboard.cuts.append(200)
    dashboard.get_job_status = lambda job: SimpleNamespace(value="SUCCEEDED")  # it ended meanwhile
    assert jobs.follow_job(dashboard, "job", "http://head:8265", console.out) == 3
    assert printed(capsys) == LOG


def test_an_outage_is_waited_out_and_told_once(capsys):
    assert jobs.follow_job(Dashboard([10], outages=5), "job", "http://head:8265", console.out) == 3
    said = capsys.readouterr()
    assert said.out == LOG
    assert said.err.count("does not answer, trying again") == 1


def test_an_outage_without_end_is_given_up_and_says_how_to_come_back(monkeypatch):
    monkeypatch.setattr(jobs, "OUTAGE_S", 0.0)
    with pytest.raises(WorkerError, match="mmray logs -f job --address http://head:8265") as info:
        jobs.follow_job(Dashboard([10], outages=10**9), "job", "http://head:8265", console.out)
    assert info.value.exit_code == 75


def test_a_job_that_ends_without_a_code_is_a_failure(capsys):
    assert jobs.follow_job(Dashboard([], code=None), "job", "http://head:8265", console.out) == 1
    assert "job job failed: it died" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(capsys, monkeypatch):
    dashboard = Dashboard([])

    def interrupted(job: str):
        raise KeyboardInterrupt

    dashboard.tail_job_logs = interrupted
    with pytest.raises(KeyboardInterrupt):
        jobs.follow_job(dashboard, "job", "http://head:8265", console.out)
    said = " ".join(capsys.readouterr().err.split())
    assert "job job goes on; come back: mmray logs -f job --address http://head:8265" in said
    assert "mmray stop job" in said
