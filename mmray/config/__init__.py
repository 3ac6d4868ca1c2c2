"""One YAML file (and dotted overrides) → one strict, typed description of the whole project.

A config is checked whole: every unknown key, wrong type and dangling name is reported in one error, each
with its dotted path and, for a misspelt key, a suggestion. Nothing here imports Ray or torch, so a fault
is answered in a fraction of a second.

    sections   the models and their defaults
    text       YAML ⇄ plain values
    nested     values at dotted paths
    rules      what types cannot say
    explain    a fault in the user's words
    reading    file + overrides → Config
"""

from mmray.config.reading import dump_config, load_config, override
from mmray.config.sections import (
    ClassificationTarget,
    ConcatFusion,
    Config,
    Encoder,
    ExtractConfig,
    Feature,
    FramesFeature,
    Fusion,
    LateFusion,
    MelFeature,
    MlpEncoder,
    ModelConfig,
    RecurrentEncoder,
    RegressionTarget,
    SamplesConfig,
    ScoreConfig,
    Section,
    Space,
    SplitConfig,
    StorageConfig,
    Target,
    TextFeature,
    TokensFeature,
    TrainConfig,
    TransformerEncoder,
    TuneConfig,
)

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
