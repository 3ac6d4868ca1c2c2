"""What a submitted job runs on the cluster: `python -m mmray.stages.job STAGE CONFIG …`.

It comes before anything that mmray needs, so it needs nothing itself: a cluster without mmray's packages, or
with others, is told in one line. Environment variables that were sent along come in a file beside the config,
not in the job's description, which Ray shows to everybody; Ray calls `take_environment` in each worker.
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ENVIRONMENT", "NEEDS", "lacking", "main", "take_environment"]

ENVIRONMENT = "mmray_environment.json"
"""{name: value}, in the job's working directory."""
NEEDS = "mmray_needs.json"
"""Requirements of mmray where it was submitted, as a package names them."""


def take_environment() -> None:
    """Set the variables that were sent along, in this process; one that is set here already is replaced."""
    for folder in (os.environ.get("RAY_RUNTIME_ENV_CREATE_WORKING_DIR"), os.getcwd()):
        file = Path(folder or ".", ENVIRONMENT)
        if file.exists():
            os.environ.update(json.loads(file.read_text(encoding="utf-8")))
            return


def lacking(needs: Iterable[str]) -> list[str]:
    """Of these requirements those that this python does not meet: `av`, `torch (2.10.0 is no ==2.11.*)`."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging, and so ray: is this the python that Ray runs with?"]
    found = []
    for requirement in map(Requirement, needs):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} ({version} is no {requirement.specifier})")
    return found


def main() -> None:
    """Entry point of a job."""
    take_environment()
    needs = Path(NEEDS)
    missing = lacking(json.loads(needs.read_text(encoding="utf-8"))) if needs.exists() else []
    if missing:
        where = f"{sys.executable} on {os.uname().nodename}, Python {sys.version.split()[0]}"
        print(
            f"error: the cluster's python ({where}) lacks what mmray needs: {', '.join(missing)}; give its "
            "machines the image of cluster/Dockerfile, or install by cluster/constraints.txt there",
            file=sys.stderr,
        )
        sys.exit(1)
    from mmray.cli import main as run

    run()


if __name__ == "__main__":
    main()
