"""One YAML file (and dotted overrides) → one strict, typed description of the whole project.

A config is checked whole: every unknown key, wrong type and dangling name is reported in one error, each
with its dotted path and, for a misspelt key, a suggestion. Nothing here imports Ray or torch, so a fault
is answered in a fraction of a second.

    sections   the whole project; its parts, with their defaults, in
               samples, targets, features, model, training, running
    metrics    the metrics each target has, and which way they are better
    text       YAML ⇄ plain values
    nested     values at dotted paths
    rules      what types cannot say
    explain    a fault in the user's words
    reading    file + overrides → Config
"""

from mmray.config.base import Section
from mmray.config.features import Feature, FramesFeature, MelFeature, TextFeature, TokensFeature
from mmray.config.model import (
    ConcatFusion,
    Encoder,
    Fusion,
    LateFusion,
    MlpEncoder,
    ModelConfig,
    RecurrentEncoder,
    TransformerEncoder,
)
from mmray.config.reading import dump_config, load_config, override
from mmray.config.running import ExtractConfig, ScoreConfig
from mmray.config.samples import SamplesConfig, SplitConfig, StorageConfig
from mmray.config.sections import Config
from mmray.config.targets import (
    ClassificationTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    Target,
)
from mmray.config.training import Space, TrainConfig, TuneConfig

__all__ = [
    "ClassificationTarget",
    "ConcatFusion",
    "Config",
    "Encoder",
    "ExtractConfig",
    "Feature",
    "FramesFeature",
    "Fusion",
    "LateFusion",
    "MelFeature",
    "MlpEncoder",
    "ModelConfig",
    "MultilabelTarget",
    "OrdinalTarget",
    "RecurrentEncoder",
    "RegressionTarget",
    "SamplesConfig",
    "ScoreConfig",
    "Section",
    "Space",
    "SplitConfig",
    "StorageConfig",
    "Target",
    "TextFeature",
    "TokensFeature",
    "TrainConfig",
    "TransformerEncoder",
    "TuneConfig",
    "dump_config",
    "load_config",
    "override",
]
