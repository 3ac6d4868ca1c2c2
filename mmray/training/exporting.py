"""A fusion model as one graph that runs without mmray: torch.export and ONNX, checked against the model.

    feature.values   [batch, steps, D] float32, or [batch, steps] int64 word indices; padded with zeros
    feature.length   [batch] int64: real steps; 0: the modality is missing
    feature.time_s   [batch, steps] float32: seconds from the start of the sample
                 ──▶ target [batch, C] float32: outputs as the model gives them, one a target

Batch and steps are free. Standardisation, vocabulary embedding and the prior for rows without any modality
are in the graph; decoding (temperature, classes) is told in the manifest.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmray.errors import TableError
from mmray.fusion.encoders import Recurrent
from mmray.fusion.model import FusionModel
from mmray.training.predict import Predictor

__all__ = ["ONNX_PACKAGES", "export_graphs", "graph_inputs"]

PARTS = ("values", "length", "time_s")
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
CHECKED = ((1, 2), (4, 9), (7, 31))
"""(rows, steps) of the batches that graphs are held against the model with; some modalities are missing."""


class _Flat(nn.Module):
    """A model whose inputs and outputs are tensors in a row."""

    def __init__(self, model: FusionModel, targets: Sequence[str]):
        super().__init__()
        self.model, self.names, self.targets = model, model.modalities, list(targets)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        x, lengths, times = (dict(zip(self.names, given[part :: len(PARTS)])) for part in range(len(PARTS)))
        outputs = self.model(x, lengths, times)
        return tuple(outputs[target] for target in self.targets)


def graph_inputs(predictor: Predictor) -> list[dict[str, Any]]:
    """The graph's inputs in their order: {name, shape, dtype}."""
    told = []
    for name in predictor.model.modalities:
        shape = predictor.spec.shapes[name]
        vectors = shape.kind == "vectors"
        values = ["batch", "steps", shape.size] if vectors else ["batch", "steps"]
        told += [
            {"name": f"{name}.values", "shape": values, "dtype": "float32" if vectors else "int64"},
            {"name": f"{name}.length", "shape": ["batch"], "dtype": "int64"},
            {"name": f"{name}.time_s", "shape": ["batch", "steps"], "dtype": "float32"},
        ]
    return told


def export_graphs(predictor: Predictor, folder: str) -> tuple[dict[str, Any], list[str]]:
    """Write `fusion.pt2` and `fusion.onnx`; what was checked of each, and notes on what could not be made.

    A model with recurrent encoders is an ONNX graph only: torch.export would unroll them to one length. ONNX
    needs `ONNX_PACKAGES`.

    Returns:
        {file: the largest difference to the model's outputs on random batches}, notes.

    Raises:
        TableError: where the model can be no graph, or a graph gives other numbers.
    """
    model = _Flat(predictor.model.cpu().eval(), list(predictor.spec.targets)).eval()
    found, notes = {}, []
    program = None
    recurrent = any(isinstance(part, Recurrent) for part in predictor.model.modules())
    lacking = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    with torch.no_grad(), _quiet():
        if recurrent:
            notes.append("no fusion.pt2: torch.export cannot hold recurrent encoders for any length")
        else:
            program = _graph_of(lambda: _exported(predictor, model))
            torch.export.save(program, f"{folder}/fusion.pt2")
            graph = torch.export.load(f"{folder}/fusion.pt2").module()
            found["fusion.pt2"] = _checked(predictor, model, graph)
        if lacking:
            notes.append(f"no fusion.onnx: pip install 'mmray[export]' ({', '.join(lacking)})")
        else:
            file, names = f"{folder}/fusion.onnx", [each["name"] for each in graph_inputs(predictor)]
            _graph_of(lambda: _write_onnx(predictor, model, program, file, names))
            found["fusion.onnx"] = _checked(predictor, model, _onnx(file, names))
    if not found:
        raise TableError(f"this model cannot be a graph here: {'; '.join(notes)}")
    return found, notes


def _graph_of(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TableError(f"this model cannot be exported as one graph: {first[:300]}") from error


def _exported(predictor: Predictor, model: nn.Module) -> torch.export.ExportedProgram:
    free = torch.export.Dim.DYNAMIC
    sizes = tuple(
        {0: free} if each["shape"] == ["batch"] else {0: free, 1: free} for each in graph_inputs(predictor)
    )
    return torch.export.export(model, _batch(predictor, 3, 5), dynamic_shapes=(sizes,), strict=False)


def _write_onnx(predictor: Predictor, model: _Flat, program: Any, file: str, names: Sequence[str]) -> None:
    if program is not None:
        made = torch.onnx.export(
            program, input_names=names, output_names=model.targets, dynamo=True, verbose=False
        )
        assert made is not None
        made.save(file)
        return
    if any(part.rnn.bidirectional for part in model.modules() if isinstance(part, Recurrent)):
        raise ValueError("a bidirectional encoder reads padding, once it is a graph")
    axes = {
        each["name"]: {0: "batch", 1: f"{each['name']}_steps"} if len(each["shape"]) > 1 else {0: "batch"}
        for each in graph_inputs(predictor)
    }
    axes |= {name: {0: "batch"} for name in model.targets}
    torch.onnx.export(  # the exporter of before torch.export knows recurrent layers as operators
        model,
        _batch(predictor, 3, 5),
        file,
        input_names=list(names),
        output_names=model.targets,
        dynamic_axes=axes,
        dynamo=False,
    )


def _onnx(file: str, names: Sequence[str]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(Path(file).read_bytes(), providers=["CPUExecutionProvider"])
    there = {each.name for each in session.get_inputs()}  # an input that nothing reads is left out

    def run(*given: Tensor) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, given) if name in there}
        return [torch.from_numpy(np.asarray(y)) for y in session.run(None, feed)]

    return run


def _checked(predictor: Predictor, model: nn.Module, graph: Any) -> float:
    """The largest difference between a graph's outputs and the model's."""
    worst = 0.0
    for seed, (rows, steps) in enumerate(CHECKED):
        given = _batch(predictor, rows, steps, seed)
        for name, own, theirs in zip(predictor.spec.targets, model(*given), graph(*given)):
            far = float((own - theirs).abs().max())
            if not far <= TOLERANCE * max(1.0, float(own.abs().max())):
                raise TableError(f"the exported graph gives other numbers: {name} is off by {far:g}")
            worst = max(worst, far)
    return worst


def _batch(predictor: Predictor, rows: int, steps: int, seed: int = 0) -> tuple[Tensor, ...]:
    """A random batch; the first row of several has nothing, each modality is missing somewhere."""
    generator = torch.Generator().manual_seed(seed)
    given: list[Tensor] = []
    for at, name in enumerate(predictor.model.modalities):
        shape, length = predictor.spec.shapes[name], steps + at
        if shape.kind == "vectors":
            given.append(torch.randn(rows, length, shape.size, generator=generator))
        else:
            given.append(torch.randint(0, shape.size, (rows, length), generator=generator))
        lengths = torch.randint(0, length + 1, (rows,), generator=generator)
        given.append(torch.where((torch.arange(rows) == 0) & (rows > 1), 0, lengths))
        given.append(torch.arange(length).float().expand(rows, -1).contiguous())
    return tuple(given)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript say of their own insides."""
    import logging
    import warnings

    loud = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(loud)
