"""How a model learns, and which settings to search."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mmray.settings import FREE, Auto, FilePath, Name, Positive, PositiveFloat, Section


class TrainConfig(Section):
    """How the fusion model learns."""

    workers: Annotated[Positive | Auto, FREE] = "auto"
    """DDP workers; auto: one a GPU, else 2 (or 1 on a single CPU). Their number changes no gradient but by
    the draws of dropout, which each worker makes for itself."""
    min_workers: Annotated[Positive | None, FREE] = None
    """Set: elastic, from so many up to `workers`, as machines come and go."""
    cpus_per_worker: Annotated[PositiveFloat | Auto, FREE] = "auto"
    epochs: Positive = 30
    batch_size: Positive = 32
    """Rows of a step, of all workers together."""
    accumulate: Positive = 1
    """Parts in which a worker computes its share of a batch: the same gradient in less memory."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the arithmetic in training (autocast); weights, losses and evaluation stay float32."""
    memory_budget_mb: Annotated[PositiveFloat | Auto, FREE] = "auto"
    """Features a worker may hold; a larger table is put on a disk of each machine once (in TMPDIR), and
    mapped. auto: a quarter of the smallest machine's memory, shared by the workers a machine can hold."""
    learning_rate: PositiveFloat = 1e-3
    learning_rates: dict[str, PositiveFloat] = {}
    """Part of the model (`encoders.face`) → its own learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after warm-up: as it is, or falling to 0 over `epochs`."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the learning rate rises from 0."""
    initialize_from: FilePath | None = None
    """Folder of a trained model; weights of the same name and shape are taken from it."""
    freeze: list[str] = []
    """Parts of the model that keep their weights: `encoders.face`, `inputs.words`, …"""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of the layers' matrices; biases, norms, embeddings and thresholds do not decay."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm; null: no clipping."""
    loss_weights: dict[Name, PositiveFloat] | Literal["uncertainty"] = {}
    """Weight of each target's loss (1 where not named) in what is learned, or `uncertainty`: learned as well.
    Reported losses, and `monitor: loss`, count every target as 1."""
    patience: Positive = 5
    """Epochs without a better `monitor` before training stops."""
    monitor: str = "loss"
    """What chooses the best epoch, on the validation split: `loss` or `<target>/<metric>`."""
    seed: int = 0
    baselines: Annotated[bool, FREE] = True
    """Also train a model on each modality alone, for the rows the fused model must beat."""
    max_restarts: Annotated[int, Field(ge=0), FREE] = 2
    """Times the run may go on from its last checkpoint after a worker died."""
    stall_timeout_s: Annotated[PositiveFloat, FREE] = 600.0
    """How long the workers may not fit the cluster, after a node is lost, before the run ends."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_workers and self.workers != "auto" and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leave none of the {self.epochs} epochs")
        return self


Integers = tuple[int, int]


class Space(Section):
    """The values to search for one setting: exactly one of these."""

    grid: list[Any] | None = None
    """Every value in turn."""
    choice: list[Any] | None = None
    """One of the values, at random."""
    uniform: tuple[float, float] | None = None
    """A number between two, at random."""
    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """A number between two, at random on a log scale."""
    int: Integers | None = None
    """A whole number from the first to the second, both included, at random."""

    @property
    def values(self) -> list[Any]:
        """All values, or the ends of a range."""
        return [*(self.grid or self.choice or self.uniform or self.log_uniform or self.int or ())]

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of " + ", ".join(type(self).model_fields))
        bounds = self.uniform or self.log_uniform or self.int
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty")
        if self.grid == [] or self.choice == []:
            raise ValueError("the list is empty")
        return self


class CompareConfig(Section):
    """Which models to hold against each other; the majority and each feature alone are always there."""

    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1, 2, 3, 4]
    """Each model is trained once for each; a metric is the mean over them."""
    models: dict[Name, dict[str, Any]] = {}
    """Name → {dotted path of a setting of `model` or `train`: value}, and `features: [names]` for some of
    them only; default: the config's own model."""
    gpus_per_run: Annotated[Annotated[float, Field(ge=0)] | Auto, FREE] = "auto"
    """A share of a GPU, or whole ones; auto: a quarter where there are any; 0: runs see none."""
    yardsticks: list[Literal["svm", "logistic"]] = []
    """Models of scikit-learn on the same rows, of each feature alone and of all: C, components, centring and
    way of fusing chosen on validation. Of targets that are classes or numbers."""
    folds: bool = False
    """Every model on each of `samples.split.folds` in turn; their test rows are judged together."""
    variants: list[dict[str, Any]] = []
    """Settings to try, each a dict as above: every model keeps the variant with the best mean `monitor` on
    the validation split; default: the settings as they are."""


class TuneConfig(Section):
    """Which settings to search, and how hard."""

    space: dict[str, Space] = {}
    """Dotted path of a setting of `model`, `train` or `targets` → {grid|choice|uniform|log_uniform|int: …},
    and `features` → {grid|choice: [[names], …]}. A setting that only some of the searched kinds have is
    tried with those."""
    searcher: Literal["random", "grid", "optuna"] = "random"
    """random: `trials` draws, each with every combination of the grids; grid: every combination of grids and
    choices; optuna: each trial is drawn where earlier ones were good (TPE, Bergstra et al. 2011)."""
    scheduler: Literal["asha", "median", "pbt", "none"] = "asha"
    """Who stops trials early: asha (Li et al. 2020) keeps one in `reduction` at each rung; median (Golovin et
    al. 2017) stops those below the median of the others at the same epoch; none lets all end. pbt (Jaderberg
    et al. 2017) stops none: every `grace_epochs` the worst quarter goes on from the weights of the best
    quarter, with settings changed a little; its best model is one of a schedule of settings, of which
    `best.yaml` has the last."""
    trials: Positive = 16
    """Draws from the space."""
    time_budget_s: Annotated[PositiveFloat | None, FREE] = None
    """When this is spent the search ends with the trials it has; default: no limit."""
    concurrent: Annotated[Positive | Auto, FREE] = "auto"
    cpus_per_trial: Annotated[PositiveFloat, FREE] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0), FREE] = 0.0
    """A share of one, or whole GPUs; 0: trials see none."""
    workers: Annotated[Positive, FREE] = 1
    """DDP workers of a trial, each with the CPUs and GPUs of `cpus_per_trial` and `gpus_per_trial`."""
    retrain_seeds: Annotated[int, Field(ge=0)] = 3
    """The winner is trained with so many seeds, and judged on the test split, once; 0: it is not."""
    grace_epochs: Positive = 3
    """No trial is stopped before this many epochs."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in this many trials at each rung."""
    seed: int = 0

    @model_validator(mode="after")
    def _pbt_goes_alone(self) -> Self:
        if self.scheduler == "pbt" and (self.searcher != "random" or self.workers > 1):
            raise ValueError("scheduler pbt goes with searcher random and trials of one worker")
        return self
