"""A kind of feature is one file and one line: nothing else knows it."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from mmray.features.kinds import KINDS

TOY = """
    from typing import Literal

    import numpy as np

    from mmray.features.base import FeatureSettings, Kind, Step, Text


    class LettersFeature(FeatureSettings):
        kind: Literal["letters"]
        source: Literal["text"] = "text"
        alphabet: str = "ab"


    def prepare(feature, text, sample_id):
        return Step(np.array([[text.count(letter) for letter in feature.alphabet]], np.float32))


    KIND = Kind(
        LettersFeature,
        takes=lambda feature: Text(),
        prepare=prepare,
        dim=lambda feature: len(feature.alphabet),
        libraries=("numpy",),
    )
"""


def test_the_table_is_whole():
    assert {
        "frames", "transformer_vision", "mel", "spectrogram", "mfcc", "transformer_audio",
        "tokens", "word_vectors", "transformer_text", "imported",
    } == set(KINDS)  # fmt: skip
    for name, kind in KINDS.items():
        assert kind.name == name
        assert kind.settings.__doc__
        assert (kind.encoder is None) != (kind.dim is None) or kind.takes is None
        assert {field for field in (kind.weights, kind.code) if field} <= kind.settings.model_fields.keys()


def test_a_toy_kind_is_a_file_and_a_line(tmp_path: Path):
    """In a process of its own, where the table has one line more: config, fault, and a row of the table."""
    (tmp_path / "toy.py").write_text(textwrap.dedent(TOY))
    (tmp_path / "config.yaml").write_text(
        "output: out\nsamples: {manifest: m.csv}\ntargets: {y: {kind: regression}}\n"
        "features: {letters: {kind: letters, alphabet: abc}}\n"
    )
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
        import json, sys
        import mmray.features.kinds as kinds  # its source with the line added, as an author would
        source = open(kinds.__file__).read().replace("imported.KIND,", "imported.KIND, toy.KIND,")
        exec(compile("import toy\\n" + source, kinds.__file__, "exec"), vars(kinds))
        for module in [name for name in sys.modules if name.startswith("mmray.config")]:
            del sys.modules[module]
        import pyarrow as pa
        from mmray.config import load_config
        from mmray.errors import ConfigError
        from mmray.features.device import CPU
        from mmray.features.encoding import Encoding
        from mmray.features.preparing import Preparation
        from mmray.storage.filesystem import Storage

        config = load_config("config.yaml")
        try:
            load_config("config.yaml", ["features.letters.alphabets=x"])
            fault = ""
        except ConfigError as error:
            fault = str(error)
        from mmray.features.base import Text
        preparation = Preparation(config.features, Storage())
        assert preparation.inputs == {"letters": Text()}
        step = preparation.prepares["letters"](config.features["letters"], "a cab", "s0")
        shape = Encoding(config.features, device=CPU, storage=Storage()).shapes["letters"]
        print(json.dumps({"values": step.value.tolist(), "dim": shape.dim, "fault": fault}))
        """)
    )
    ran = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["values"] == [[2.0, 1.0, 1.0]]
    assert told["dim"] == 3
    assert "did you mean 'alphabet'" in told["fault"]
