"""What a support vector machine makes of the features that fusion models are compared on.

    python tests/benchmarks/svm_yardstick.py OUTPUT TARGET           for example runs/grid digit

A yardstick that shares no code with mmray's models: each feature of the table below OUTPUT, its time
stretched to 20 steps, its mean over time taken off (a single step stays as it is), standardized, in
principal components; C and their number by the validation split. `late` adds the decision values of all
features. Prints accuracies on test.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import mmray

STEPS = 20


def stretched(steps: np.ndarray) -> np.ndarray:
    """[T, D] → [STEPS · D]: linear interpolation in time, less the mean over time; one step: [D]."""
    if len(steps) == 1:
        return steps[0]
    at = np.linspace(0, len(steps) - 1, STEPS)
    low, high = np.floor(at).astype(int), np.ceil(at).astype(int)
    values = steps[low] + (at - low)[:, None] * (steps[high] - steps[low])
    return (values - values.mean(0)).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("target")
    arguments = parser.parse_args()
    table = mmray.read(str(arguments.output), predictions="")
    split, labels = (table[name].to_numpy() for name in ("split", arguments.target))
    names = [name.removesuffix("_error") for name in table.column_names if name.endswith("_error")]
    truth = {part: labels[split == part] for part in ("train", "val", "test")}
    found, decisions = {}, 0.0
    for name in names:
        rows = np.stack([stretched(np.array(row, np.float32)) for row in table[name].to_pylist()])
        models = [
            make_pipeline(
                StandardScaler(),
                PCA(components, svd_solver="full"),
                StandardScaler(),
                SVC(C=c),
            ).fit(rows[split == "train"], truth["train"])
            for c in (1, 10, 100)
            for components in (20, 40, 80)
        ]
        best = max(models, key=lambda model: model.score(rows[split == "val"], truth["val"]))
        found[name] = best.score(rows[split == "test"], truth["test"])
        decisions = decisions + best.decision_function(rows[split == "test"])
    classes = np.unique(truth["train"])
    found["late"] = float(np.mean(classes[np.argmax(decisions, axis=1)] == truth["test"]))
    print(json.dumps({name: round(float(value), 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
