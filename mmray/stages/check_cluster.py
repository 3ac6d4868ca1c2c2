"""Each machine of a cluster is asked before a run: its versions, its decoders, whether it reaches the output.

A small task is sent to every node. It finds a file that the driver wrote below the output, and writes one
that the driver finds: a folder of the same name that is not the same folder is told apart so.
"""

import contextlib
import importlib.metadata
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from typing import Any

from mmray.config import Config
from mmray.errors import MmrayError, PlanError, WorkerError
from mmray.storage.filesystem import Storage

__all__ = ["ask_nodes", "line"]

ANSWER_S = 120.0
"""A node that has not answered by then is named; a fresh worker imports Ray and torch on the way."""
SAME = "it must be the same on every machine, or s3://"
PACKAGES = ("mmray", "ray", "torch", "pyarrow", "numpy", "av", "torchcodec", "decord")


def ask_nodes(config: Config, folder: str, media: str | None) -> list[dict[str, Any]]:
    """What each live node says: {node, host, python, packages, cpus, gpus, decoder, shm_free, disk_free}.

    `folder` is that of the output, or the nearest above it that is there; `media` is a file of the samples,
    which each looks for as well.

    Raises:
        PlanError: listing every node that does not reach the output or the media, cannot load the decoder,
            or has other versions than the driver's node.
        WorkerError: where a node does not answer within `ANSWER_S`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    storage = Storage(config.storage)
    probe = f"{folder}/.mmray-check-{uuid.uuid4().hex}"
    storage.write(probe, b"")
    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote(
                config, probe, name, media
            ): name
            for name in alive
        }
        done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
        if silent:
            hosts = ", ".join(alive[asked[each]]["NodeManagerHostname"] for each in silent)
            raise WorkerError(f"these machines of the cluster do not answer within {ANSWER_S:g} s: {hosts}")
        found = [{**ray.get(each), "node": asked[each][:8]} for each in done]
        for node, name in zip(found, (asked[each] for each in done)):
            if not node["faults"] and not storage.exists(f"{probe}-{name}"):
                node["faults"].append(f"{folder} is another folder there: {SAME}")
    finally:
        for file in (probe, *(f"{probe}-{name}" for name in alive)):
            with contextlib.suppress(MmrayError):  # of a node that wrote none
                storage.remove(file)
    found.sort(key=lambda node: (node["host"], node["node"]))
    _require_alike(found)
    return found


def line(node: Mapping[str, Any]) -> str:
    """A node in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in node["packages"].items() if name != "mmray")
    gpus = f", {node['gpus']:g} GPU" if node["gpus"] else ""
    shm = f"{node['shm_free'] / 2**30:.1f} GB of /dev/shm and {node['disk_free'] / 2**30:.0f} GB of disk free"
    return (
        f"{node['host']} ({node['node']}): {node['cpus']:g} CPU{gpus}, Python {node['python']}, {versions}; "
        f"frames by {node['decoder']}; {shm}"
    )


def _look(config: Config, probe: str, name: str, media: str | None) -> dict[str, Any]:
    """Runs on a node."""
    import shutil

    import ray

    from mmray.decode.choice import choose_decoders

    faults = []
    storage = Storage(config.storage)
    decoder = config.extract.decoder
    try:
        decoder = choose_decoders(config.extract.decoder).frames
    except MmrayError as fault:
        faults.append(str(fault).splitlines()[-1].strip())
    try:
        if not storage.exists(probe):
            faults.append(f"{probe.rpartition('/')[0]} is not there, or another folder: {SAME}")
        else:
            storage.write(f"{probe}-{name}", b"")
        if media and not storage.exists(media):
            faults.append(f"{media} is not there: {SAME}")
    except MmrayError as fault:
        faults.append(str(fault))
    (node,) = [each for each in ray.nodes() if each["NodeID"] == name]
    return {
        "host": socket.gethostname(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {package: version for package in PACKAGES if (version := _version(package))},
        "cpus": node["Resources"].get("CPU", 0.0),
        "gpus": node["Resources"].get("GPU", 0.0),
        "decoder": decoder,
        "shm_free": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        "disk_free": shutil.disk_usage("/tmp").free,
        "faults": faults,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _require_alike(found: list[dict[str, Any]]) -> None:
    """No faults, and one version of everything: what is computed must not depend on where."""
    lines = [f"  {node['host']} ({node['node']}): {fault}" for node in found for fault in node["faults"]]
    for package in PACKAGES:
        versions = {node["packages"].get(package, "none") for node in found}
        if len(versions) > 1:
            told = [f"{node['host']} has {node['packages'].get(package, 'none')}" for node in found]
            lines.append(f"  {package} is not the same everywhere: {'; '.join(told)}")
    if lines:
        raise PlanError("\n".join(["the cluster's machines cannot run this:", *lines]))
