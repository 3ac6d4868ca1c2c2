"""mmray: media files in, fused predictions out, on Ray.

    import mmray

    config = mmray.load_config("mmray.yaml", {"train.epochs": 20})
    mmray.check(config)               # faults that would stop a run, found before it costs anything
    mmray.extract(config)             # media → features
    results = mmray.train(config)     # features → a fusion model and its metrics on the test split
    mmray.score(config)               # model + features → predictions
    mmray.evaluate(config)            # by split and subgroup: what they are worth
    mmray.explain(config)             # what each modality and step has to do with it
    mmray.report(config)              # all of it → one HTML page
    frame = mmray.read(config).to_pandas()      # samples, features and predictions, a row a sample

A stage takes a `Config` or the path of a YAML file, goes on where it was left, and returns its summary as
plain values. With `address` (or RAY_ADDRESS) it runs on that Ray cluster, else on a Ray it starts here.
Every fault that a user can mend is an `MmrayError`.

    config       YAML → one strict, typed description of the whole project
    errors       every fault the user can act on, as one tree
    storage      a path, local or s3:// → a filesystem; atomic writes; media as local files
    samples      manifests, tar shards, folders, arrays → the index of samples
    decode       media bytes → frames, waveforms, pictures; in a child that can be killed
    features     a kind of feature a file: what is taken from a sample's media
    tables       names, types, identities and part files of every table
    targets      a kind of target a file: what is predicted
    fusion       encoders + fusion + heads → predictions
    training     feature tables → batches → a trained model
    distributed  Ray: connecting, pools of actors, what fits, progress
    stages       a command a file
    results      tables, figures, the report's page

Only `distributed` and `stages` import Ray, and nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from mmray.config import Config, load_config
    from mmray.errors import MmrayError
    from mmray.stages.check import check
    from mmray.stages.compare import compare
    from mmray.stages.evaluate import evaluate
    from mmray.stages.explain import explain
    from mmray.stages.export import export
    from mmray.stages.extract import extract
    from mmray.stages.forget import forget
    from mmray.stages.import_features import import_features
    from mmray.stages.load import load
    from mmray.stages.plan import plan
    from mmray.stages.report import report
    from mmray.stages.run import run
    from mmray.stages.score import score
    from mmray.stages.status import status
    from mmray.stages.train import train
    from mmray.stages.tune import tune
    from mmray.tables.read import read

__all__ = [
    "Config",
    "MmrayError",
    "check",
    "compare",
    "evaluate",
    "explain",
    "export",
    "extract",
    "forget",
    "import_features",
    "load",
    "load_config",
    "plan",
    "read",
    "report",
    "run",
    "score",
    "status",
    "train",
    "tune",
]

_HOMES = {
    "Config": "mmray.config",
    "MmrayError": "mmray.errors",
    "load_config": "mmray.config",
    "read": "mmray.tables.read",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: a stage of that name is in `mmray.stages`."""
    if name not in __all__:
        raise AttributeError(f"module 'mmray' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, f"mmray.stages.{name}")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
