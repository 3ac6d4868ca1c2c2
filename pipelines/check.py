"""A config, tried out before it costs anything: manifest, storage, a few samples, the plan."""

import os
import tempfile

from mmray.config import Config
from mmray.plan import Node, plan_extract, plan_score, plan_train, plan_tune
from mmray.samples.manifest import plan_samples
from mmray.storage import Storage
from pipelines import console

__all__ = ["check"]

SAMPLES_TRIED = 3


def check(config: Config, config_path: str) -> None:
    """Print what the config would do on this machine; decodes the first samples for real.

    Raises:
        MmrayError: the first thing that would stop a run.
    """
    import torch

    from mmray.extraction import Encoding, Preparation

    storage = Storage(config.storage)
    storage.require_writable(config.output)
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_samples(config, storage, folder)
        samples = plan.read(storage, 0).slice(0, SAMPLES_TRIED)
    console.out.print(f"config    {config_path}: no faults")
    splits = ", ".join(f"{name or 'no split'} {count}" for name, count in sorted(plan.splits.items()))
    console.out.print(f"samples   {plan.rows} ({splits}) in {plan.partitions} partitions")

    encoding = Encoding(config.features, config.targets, encode_batch=config.extract.encode_batch)
    rows = encoding(Preparation(config.features, storage)(samples))
    for row in rows.to_pylist():
        console.out.print(f"  {row['sample_id']}")
        for name in config.features:
            told = [error for error in row["errors"] if error["modality"] == name]
            width = encoding.shapes[name].dim
            shape = f"{row[f'{name}_length']} × {width if width else 'words'}"
            console.out.print(
                f"    {name}: " + (f"{told[0]['reason']}: {told[0]['detail']}" if told else shape)
            )

    here = [Node(os.cpu_count() or 1, torch.cuda.device_count())]
    pools = plan_extract(config.extract, here, plan.partitions)
    workers = plan_train(config.train, here)
    console.out.print(f"on this machine ({here[0].cpus:g} CPU, {here[0].gpus:g} GPU)")
    console.out.print(
        f"  extract {pools.placement}: {pools.actors}" + (f" → {pools.encoders}" if pools.encoders else "")
    )
    console.out.print(
        f"  train   {workers.count} workers × {workers.cpus:g} CPU" + (", a GPU each" if workers.gpu else "")
    )
    console.out.print(f"  score   {plan_score(config.score, here, plan.partitions)}")
    if config.tune.space:
        console.out.print(f"  tune    {config.tune.trials} trials, {plan_tune(config.tune, here)} at a time")
    console.out.print(f"next      mmray run {config_path}")
