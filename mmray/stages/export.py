"""A trained model → a folder to take elsewhere.

OUT/  all of the model's folder           scores raw media with mmray, as before
      fusion.pt2  fusion.onnx             the fusion as one graph, for programs without mmray
      manifest.json                       its inputs and outputs, and what was checked
      encoders/FEATURE/…                  with `with_encoders`: the weights that features are made with
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmray import console
from mmray.errors import StorageError
from mmray.features.kinds import kind_of
from mmray.features.weights import local_weights
from mmray.stages.score_samples import FEATURES, Trained, project_of, trained_models
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder
from mmray.storage.uris import absolute, scheme_of

__all__ = ["export", "show"]

MANIFEST = "manifest.json"


def export(model: str, output: str, *, with_encoders: bool = False) -> dict[str, Any]:
    """Write a trained model as a folder of its own, with its fusion as torch.export and ONNX graphs.

    Args:
        model: The folder of a model or of its training, local or s3://.
        output: A folder that is not there yet, or empty.
        with_encoders: Also the weights that its features are made with, so that nothing else is needed.
            Weights known by a hub's id (or torchvision's own) stay where they are, which a note says.

    Returns:
        The manifest: {model, inputs, outputs, checked, notes, output}.

    Raises:
        TableError: where there is no model, it cannot be one graph, or the graph gives other numbers.
        StorageError: where `output` is not empty.
    """
    from mmray.training.checkpoint import load_predictor
    from mmray.training.exporting import export_graphs, graph_inputs

    storage, output = Storage(), absolute(output).rstrip("/")
    if storage.names(output):
        raise StorageError(f"{output}: is not empty; give a new folder")
    (found,) = trained_models([model], storage)
    with scratch_folder() as copied, scratch_folder() as made:
        folder = storage.copy_down(found.folder, copied)
        predictor = load_predictor(folder)
        checked, notes = export_graphs(predictor, made)
        told = found.told
        if with_encoders:
            told, more = _packed(found, storage, made)
            notes += more
        files = {name: f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name != FEATURES}
        for above, _, names in os.walk(made):
            files |= {os.path.relpath(f"{above}/{name}", made): f"{above}/{name}" for name in names}
        manifest = {
            "model": found.fingerprint,
            "inputs": graph_inputs(predictor),
            "outputs": [
                {
                    "name": name,
                    "kind": target.target.kind,
                    "classes": target.names,
                    "then": _then(target),
                }
                for name, target in predictor.spec.targets.items()
            ],
            "checked": checked,
            "notes": notes,
        }
        last = ("model.json",)  # it says that the folder is whole
        for name in sorted(files, key=lambda name: (name in last, name)):
            if name in last:
                storage.write_json(f"{output}/{FEATURES}", told)
                storage.write_json(f"{output}/{MANIFEST}", manifest)
            storage.write(f"{output}/{name}", Path(files[name]).read_bytes())
    return {**manifest, "output": output}


def _then(target: Any) -> dict[str, Any]:
    """How an output becomes a prediction."""
    t = getattr(target, "temperature", 1.0)
    return {
        "classification": {"probabilities": "softmax(y / temperature)", "temperature": t},
        "multilabel": {
            "probabilities": "sigmoid(y / temperature)",
            "temperature": t,
            "threshold": getattr(target.target, "threshold", 0.5),
        },
        "ordinal": {"above": "sigmoid(y): the probability of being above each level but the last"},
        "regression": {
            "value": "y * std + mean",
            "mean": getattr(target, "mean", 0.0),
            "std": getattr(target, "std", 1.0),
        },
    }[target.target.kind]


def _packed(found: Trained, storage: Storage, made: str) -> tuple[dict[str, Any], list[str]]:
    """Copies weights below `made`; what `features.json` then says, and notes on what could not be packed."""
    config = project_of([found], {"manifest": "none.jsonl"}, "none")
    told, notes = {**found.told, "features": dict(found.told["features"])}, []
    for name, feature in config.features.items():
        field = kind_of(feature).weights
        if field is None or (weights := getattr(feature, field)) == "random":
            continue
        local = local_weights(weights, storage) if scheme_of(weights) == "s3" else os.path.expanduser(weights)
        if not os.path.exists(local):
            notes.append(f"{name}: its weights are {weights}, which is fetched where it is used")
            continue
        inside = f"encoders/{name}/{os.path.basename(local.rstrip('/'))}"
        sources = [local] if os.path.isfile(local) else [e.path for e in os.scandir(local) if e.is_file()]
        for source in sources:
            target = f"{made}/{inside}" if os.path.isfile(local) else f"{made}/{inside}/{Path(source).name}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.path.abspath(source), target)
        told["features"][name] = {**told["features"][name], field: inside}
    return told, notes


def show(manifest: Mapping[str, Any]) -> None:
    """Print what was exported and how far the graphs are from the model."""
    console.out.print("\n[bold]export[/]")
    for file, far in manifest["checked"].items():
        console.out.print(f"  {file:<11}  within {far:.1e} of the model", markup=False)
    for note in manifest["notes"]:
        console.out.print(f"  note     {note}", markup=False, soft_wrap=True)
    console.out.print(f"  output   {manifest['output']}", markup=False, soft_wrap=True)
