"""How a model learns, and which settings to search."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mmray.config.base import Auto, Name, Positive, PositiveFloat, Section


class TrainConfig(Section):
    """How the fusion model learns."""

    workers: Positive | Auto = "auto"
    """DDP workers; auto: one a GPU, else 2 (or 1 on a single CPU)."""
    cpus_per_worker: PositiveFloat | Auto = "auto"
    epochs: Positive = 30
    batch_size: Positive = 32
    """Of all workers together: the result does not depend on how many there are."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm; null: no clipping."""
    loss_weights: dict[Name, PositiveFloat] | Literal["uncertainty"] = {}
    """Weight of each target's loss (1 where not named), or `uncertainty`: learned in training."""
    patience: Positive = 5
    """Epochs without a better `monitor` before training stops."""
    monitor: str = "loss"
    """What chooses the best epoch, on the validation split: `loss` or `<target>/<metric>`."""
    seed: int = 0
    baselines: bool = True
    """Also train a model on each modality alone, for the rows the fused model must beat."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """Times the run may go on from its last checkpoint after a worker died."""


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

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of " + ", ".join(type(self).model_fields))
        bounds = self.uniform or self.log_uniform
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty")
        if self.grid == [] or self.choice == []:
            raise ValueError("the list is empty")
        return self


class TuneConfig(Section):
    """Which settings to search, and how hard."""

    space: dict[str, Space] = {}
    """Dotted path of a setting of `model` or `train` → {grid|choice|uniform|log_uniform: …}."""
    trials: Positive = 16
    """Draws from the space; every combination of the grids counts as one draw of the rest."""
    concurrent: Positive | Auto = "auto"
    cpus_per_trial: PositiveFloat = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    grace_epochs: Positive = 3
    """ASHA stops no trial before this many epochs."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in this many trials at each rung."""
    seed: int = 0
