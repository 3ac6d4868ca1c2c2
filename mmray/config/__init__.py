"""One YAML file (and dotted overrides) → one strict, typed description of the whole project.

A config is checked whole: every unknown key, wrong type and dangling name is reported in one error, each
with its dotted path and, for a misspelt key, a suggestion. Nothing here imports Ray or torch, so a fault
is answered in a fraction of a second.

    sections   the whole project; its parts, with their defaults, in
               samples, model, training, running, cluster
               (features and targets are in mmray.features and mmray.targets, each in the file of its kind)
    values     YAML ⇄ plain values; values at dotted paths
    rules      what types cannot say
    explain    a fault in the user's words
    load       file + overrides → Config, its local paths absolute
"""

from mmray.config.cluster import ClusterConfig
from mmray.config.load import ConfigLike, as_config, dump_config, load_config, override
from mmray.config.running import ExtractConfig, ScoreConfig
from mmray.config.samples import SamplesConfig, SplitConfig, StorageConfig
from mmray.config.schema import Config
from mmray.config.training import CompareConfig, Space, TrainConfig, TuneConfig
from mmray.features.kinds import Feature
from mmray.fusion.kinds import ModelConfig
from mmray.settings import Section

__all__ = [
    "ClusterConfig",
    "CompareConfig",
    "Config",
    "ConfigLike",
    "ExtractConfig",
    "Feature",
    "ModelConfig",
    "SamplesConfig",
    "ScoreConfig",
    "Section",
    "Space",
    "SplitConfig",
    "StorageConfig",
    "TrainConfig",
    "TuneConfig",
    "as_config",
    "dump_config",
    "load_config",
    "override",
]
