"""The whole project as one model; each section lives in a module of its own, beside its defaults."""

from pydantic import Field

from mmray.config.cluster import ClusterConfig
from mmray.config.running import ExtractConfig, ReportConfig, ScoreConfig
from mmray.config.samples import MEDIA_SOURCES, SamplesConfig, StorageConfig
from mmray.config.training import CompareConfig, TrainConfig, TuneConfig
from mmray.features.imported import ImportedFeature
from mmray.features.kinds import Feature
from mmray.fusion.kinds import ModelConfig
from mmray.settings import FilePath, Name, Section
from mmray.targets import AnyTarget


class Config(Section):
    """The whole project. Everything mmray writes goes below `output`."""

    name: Name = "project"
    output: FilePath
    storage: StorageConfig = StorageConfig()
    samples: SamplesConfig
    targets: dict[Name, AnyTarget] = {}
    features: dict[Name, Feature] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    compare: CompareConfig = CompareConfig()
    score: ScoreConfig = ScoreConfig()
    report: ReportConfig = ReportConfig()
    cluster: ClusterConfig = ClusterConfig()

    def path(self, *parts: str) -> str:
        """Where something below `output` is: `features` → `runs/demo/features`."""
        return "/".join([self.output.rstrip("/"), *parts])

    def imported_from(self, feature: ImportedFeature) -> str:
        """The file or feature table an imported feature is read from."""
        path = feature.path or self.samples.manifest
        assert isinstance(path, str), "a rule of the config"
        return path

    def source_columns(self) -> list[str]:
        """Media columns the features read, in a fixed order; `audio` may also come from `video`."""
        used = {feature.source for feature in self.features.values()}
        return [source for source in MEDIA_SOURCES if source in used]
