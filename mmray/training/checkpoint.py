"""A moment of training ⇄ a directory from which it goes on, or from which the best model scores.

    weights.pt        state dict of the best epoch so far (loads with weights_only=True)
    vocabulary.json   {feature: words}
    trainer.pt        current weights, optimizer, metrics of every epoch: of a checkpoint, not of a model
    model.json        version, configs, features with shapes, targets, metrics, fingerprint; written last:
                      its presence means that the directory is complete

There is no generator state: every epoch seeds its own from (seed, epoch, rank), so that any number of
workers can go on from here.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import mmray
from mmray.errors import TableError
from mmray.settings import deciding
from mmray.storage.strict_json import dumps
from mmray.training.predict import Predictor
from mmray.training.spec import ModelSpec

__all__ = [
    "Snapshot",
    "load_predictor",
    "load_snapshot",
    "load_weights",
    "model_fingerprint",
    "require_same_training",
]

VERSION = 2
WEIGHTS, MODEL, VOCABULARY, TRAINER = "weights.pt", "model.json", "vocabulary.json", "trainer.pt"
NO_MODEL = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What Python and torch raise of a stranger's file, in which anything may be of another kind."""


@dataclass(frozen=True)
class Snapshot:
    """Training after `len(history)` epochs; `weights` are those of the best of them."""

    spec: ModelSpec
    weights: dict[str, Tensor]
    history: list[dict[str, float]]
    """Flat metrics of each epoch."""
    current: dict[str, Tensor]
    """Weights after the last epoch."""
    optimizer: dict
    """`Optimization.state_dict`."""
    test: dict = field(default_factory=dict)
    """Report on the test split, once training has ended."""
    operating: dict = field(default_factory=dict)
    """{target: {class: curve}}, as `mmray.training.operating` has them; likewise."""

    @property
    def best(self) -> dict[str, float]:
        """Flat metrics of the best epoch."""
        return self.history[int(self.history[-1]["best_epoch"]) - 1]

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint; one that is already there is replaced file by file."""
        trainer = {"history": self.history, "current": self.current, "optimizer": self.optimizer}
        self._save(Path(folder), {TRAINER: trainer})

    def save_model(self, folder: str | Path) -> None:
        """Write what scoring needs: a checkpoint without the state of training."""
        self._save(Path(folder), {})

    def _save(self, folder: Path, more: Mapping[str, dict]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).unlink(missing_ok=True)
        model = {
            "version": VERSION,
            "mmray": mmray.__version__,
            "torch": torch.__version__,
            "fingerprint": model_fingerprint(self.spec, self.weights),
            **self.spec.to_json(),
            "metrics": self.best,
            "test": self.test,
            "operating": self.operating,
        }
        for name, state in {WEIGHTS: self.weights, **more}.items():
            torch.save(state, folder / name)
        _write_json(folder / VOCABULARY, {name: v.words for name, v in self.spec.vocabularies.items()})
        _write_json(folder / f"{MODEL}.partial", model)
        os.replace(folder / f"{MODEL}.partial", folder / MODEL)


def load_snapshot(folder: str | Path) -> Snapshot:
    """Read a checkpoint to go on from.

    Raises:
        TableError: where it is absent, incomplete or altered.

    """
    spec, weights, model = _load_model(Path(folder))
    trainer = _load(Path(folder) / TRAINER)
    return Snapshot(
        spec,
        weights,
        trainer["history"],
        trainer["current"],
        trainer["optimizer"],
        model["test"],
        model.get("operating", {}),
    )


def load_weights(folder: str | Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read what the best model of a checkpoint is, and its weights.

    Raises:
        TableError: where it is absent, incomplete or altered.

    """
    return _load_model(Path(folder))[:2]


def load_predictor(folder: str | Path, device: str = "cpu") -> Predictor:
    """Read the best model of a checkpoint.

    Raises:
        TableError: where it is absent, incomplete or altered.

    """
    spec, weights, model = _load_model(Path(folder))
    try:
        network = spec.build()
        network.load_state_dict(weights)
    except NO_MODEL as error:
        raise TableError(f"the checkpoint {folder} is no whole model: {_told(error)}") from error
    operating = model.get("operating", {})  # absent in models of earlier versions
    return Predictor(network.to(device).eval(), spec, model["fingerprint"], device, operating)


def model_fingerprint(spec: ModelSpec, weights: Mapping[str, Tensor]) -> str:
    """16 hex digits of a sha256 over what decides a prediction: the weights and how rows are read."""
    description = {key: value for key, value in spec.to_json().items() if key != "train"}
    words = {name: vocabulary.words for name, vocabulary in spec.vocabularies.items()}
    digest = hashlib.sha256(json.dumps([description, words], sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def require_same_training(saved: ModelSpec, wanted: ModelSpec) -> None:
    """Refuse to go on from a checkpoint of another run.

    Raises:
        TableError: naming each field that differs.

    """
    a, b = _identity(saved), _identity(wanted)
    if different := sorted(key for key in {*a, *b} if a.get(key) != b.get(key)):
        raise TableError(
            "the checkpoint belongs to another run, these differ: "
            + "; ".join(f"{key} {_short(a.get(key))} there, {_short(b.get(key))} here" for key in different)
        )


def _identity(spec: ModelSpec) -> dict[str, object]:
    """{dotted name: value} of everything two runs must share to be one.

    Of a model to start from the run's name knows the fingerprint; here it would be a path.
    """
    data = {**spec.to_json(), "model": deciding(spec.model), "train": deciding(spec.train)}
    flat: dict[str, object] = {"features_fingerprint": data["features_fingerprint"]}
    for section in ("model", "train", "features"):
        flat |= {f"{section}.{key}": value for key, value in data[section].items()}
    flat |= {f"targets.{name}": t.uncalibrated().to_json() for name, t in spec.targets.items()}
    flat |= {f"vocabulary.{name}": list(v.words) for name, v in spec.vocabularies.items()}
    del flat["train.initialize_from"]
    return flat


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _load_model(folder: Path) -> tuple[ModelSpec, dict[str, Tensor], dict]:
    if not (folder / MODEL).exists():
        state = "is incomplete: its writing was interrupted" if folder.exists() else "does not exist"
        raise TableError(f"the checkpoint {folder} {state}")
    model, vocabulary, weights = (
        _read_json(folder / MODEL),
        _read_json(folder / VOCABULARY),
        _load(folder / WEIGHTS),
    )
    try:
        if model["version"] != VERSION:
            raise TableError(f"{folder / MODEL} has version {model['version']}, this mmray reads {VERSION}")
        spec = ModelSpec.from_json(model, vocabulary)
        fingerprint = model_fingerprint(spec, weights)
    except NO_MODEL as error:
        raise TableError(f"the checkpoint {folder} is no whole model: {_told(error)}") from error
    if fingerprint != model["fingerprint"]:
        raise TableError(f"the checkpoint {folder} was altered: its weights do not have its fingerprint")
    return spec, weights, model


def _load(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, pickle.UnpicklingError, *NO_MODEL) as error:
        raise TableError(f"{path} cannot be read: {_told(error)}") from error


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{path} cannot be read: {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _write_json(path: Path, value: object) -> None:
    path.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")
