"""The cluster a project runs on: defaults of `mmray submit`, and what its machines cost for `mmray plan`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from mmray.settings import Fraction, Positive, PositiveFloat, Section

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class NodesConfig(Section):
    """Machines of one kind, and what one of them costs an hour, in any currency."""

    count: Positive = 1
    cpus: PositiveFloat
    gpus: Annotated[float, Field(ge=0)] = 0.0
    price_per_hour: PositiveFloat
    spot_price_per_hour: PositiveFloat | None = None
    spot_share: Fraction = 0.0
    """Share of these machines that are spot ones, at their own price."""

    @model_validator(mode="after")
    def _has_the_price_it_needs(self) -> Self:
        if self.spot_share and self.spot_price_per_hour is None:
            raise ValueError("spot_share needs spot_price_per_hour")
        return self


class ClusterConfig(Section):
    """Where jobs go and what goes with them; nothing of it decides a result."""

    address: str | None = None
    """The cluster's dashboard, http://HOST:8265; default of `mmray submit`, `jobs`, `logs` and `stop`."""
    env: list[EnvironmentName] = []
    """Names of environment variables that go with a job; their values are taken from where `mmray submit`
    runs, and stand in no config, log or list of jobs."""
    pip: list[str] = []
    """Packages that the job's processes get installed: for code of your own, not for mmray's dependencies."""
    driver_cpus: Annotated[float, Field(ge=0)] | None = None
    """CPUs that a job's driver reserves; default: none, so that it fits a head without CPUs."""
    driver_resources: dict[str, PositiveFloat] = {}
    """Resources of Ray's that only the machines of drivers have: off the spot ones."""
    driver_labels: dict[str, str] = {}
    """Labels of Ray's that a driver's machine must have."""
    wait_for_cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPUs that a stage on a cluster asks the autoscaler for and awaits before it is planned; one at least.
    Pools on `auto` grow further by themselves."""
    wait_for_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs likewise: without any at the start, encoding and training are planned on CPUs."""
    nodes: dict[str, NodesConfig] = {}
    """Kinds of machines, for `mmray plan`."""

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        if self.address and not self.address.startswith(("http://", "https://")):
            raise ValueError(f"address {self.address!r}: it must be the dashboard's, http://HOST:8265")
        return self
