"""The versions that CI and the image install: what pyproject.toml asks for, and each of them once."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    lines = (ROOT / "cluster/constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, version in pins}
    assert len(pinned) == len(pins), "a package twice"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        assert canonicalize_name(Requirement(line).name) in pinned, (
            f"{line}: add its version, and those it needs"
        )
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    for requirement in map(Requirement, [*project["dependencies"], *optional]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or version in requirement.specifier, f"{requirement}: {version} is pinned"


def test_what_builds_and_checks_installs_by_it():
    for name, commands in (("Makefile", 2), ("cluster/Dockerfile", 1)):
        assert (ROOT / name).read_text().count("-c cluster/constraints.txt") == commands
