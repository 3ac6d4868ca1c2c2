"""What each machine of a cluster says, and what of it stops a run."""

import os
from pathlib import Path

import pytest

from mmray.errors import PlanError
from mmray.stages.check_cluster import _require_alike, ask_nodes, line


def test_every_machine_is_asked_and_nothing_is_left_behind(ray_cluster, clip_project, clips, tmp_path):
    config = clip_project()
    before = sorted(os.listdir(tmp_path))
    media = str(next((clips.folder / "clips").iterdir()))
    (node,) = ask_nodes(config, str(tmp_path), media)
    assert node["cpus"] == 4
    assert node["faults"] == []
    assert node["decoder"] == "pyav"
    assert "4 CPU, Python 3.11" in line(node)
    with pytest.raises(PlanError, match=r"nowhere\.mp4 is not there: it must be the same on every machine"):
        ask_nodes(config, str(tmp_path), str(Path(media).with_name("nowhere.mp4")))
    assert sorted(os.listdir(tmp_path)) == before


def test_a_machine_that_differs_is_named():
    node = {"host": "a", "node": "1", "faults": [], "packages": {"ray": "2.60.0", "torch": "2.11.0"}}
    other = {**node, "host": "b", "node": "2", "packages": {"ray": "2.60.0", "torch": "2.10.0"}}
    _require_alike([node, {**node, "host": "b"}])
    with pytest.raises(PlanError) as caught:
        _require_alike([node, {**other, "faults": ["/data is another folder there"]}])
    assert str(caught.value).splitlines()[1:] == [
        "  b (2): /data is another folder there",
        "  torch is not the same everywhere: a has 2.11.0; b has 2.10.0",
    ]
