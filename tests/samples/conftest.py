"""A source read as the index reads it: rows, and what is said of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmray.config import load_config
from mmray.errors import SamplesError
from mmray.samples.checks import CheckedRows
from mmray.samples.sources import find_source
from mmray.storage.filesystem import Storage

VOICE = {"voice": {"kind": "mel"}}
WORDS = {"words": {"kind": "tokens"}}


class Found(NamedTuple):
    """What a source gave."""

    rows: dict[str, dict[str, Any]]
    said: str
    """Notes and damage, or the error."""
    refused: bool = False

    def media(self, column: str = "video") -> dict[str, bytes]:
        """{sample: the bytes of its medium}."""
        found = {}
        for name, row in self.rows.items():
            with Storage().media(row[column]) as path:
                found[name] = Path(path).read_bytes()
        return found


Read = Callable[..., Found]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read({"manifest": …}, features=…, targets=…)`."""

    def read(
        samples: dict[str, Any],
        features: dict[str, Any] | None = None,
        targets: dict[str, Any] | None = None,
        output: str | None = None,
    ) -> Found:
        config = load_config(
            _written(
                tmp_path / "config.yaml",
                {
                    "output": output or str(tmp_path / "out"),
                    "samples": samples,
                    "targets": targets or {"label": {"kind": "classification"}},
                    "features": features or VOICE,
                },
            )
        )
        try:
            checked = CheckedRows(config, Storage(), find_source(config.samples, Storage(), config.output))
            rows = list(checked)
        except SamplesError as error:
            return Found({}, str(error), refused=True)
        ids = {row["sample_id"]: row for row in rows}
        assert len(ids) == len(rows)
        return Found(ids, "\n".join([*checked.damage, *checked.notes]))

    return read


def _written(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path
