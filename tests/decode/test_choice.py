"""The decoders are chosen once, by what works here, and the spec names them."""

import importlib.metadata
import subprocess
import sys

import pytest

from mmray.config import load_config
from mmray.decode.choice import choose_decoders
from mmray.tables.identity import environment

ORDER = ["torchcodec", "decord", "pyav"]


def works(name: str) -> bool:
    """In a process of its own."""
    module = {"torchcodec": "torchcodec.decoders", "pyav": "av"}.get(name, name)
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def test_auto_is_pyav_everywhere_and_no_other_reads_sound():
    assert choose_decoders("auto") == ("pyav", "pyav")
    for name in filter(works, ORDER):
        assert choose_decoders(name) == (name, "pyav")


def test_a_decoder_that_cannot_be_loaded_is_a_fault_of_the_config(tmp_path):
    """In an interpreter in which both cannot be imported: `auto` is PyAV, a name is refused."""
    code = """
import sys
sys.modules["torchcodec"] = sys.modules["decord"] = None
from mmray.decode.choice import choose_decoders
from mmray.errors import ConfigError
print(choose_decoders("auto"))
for name in ("torchcodec", "decord"):
    try:
        choose_decoders(name)
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Decoders(frames='pyav', sound='pyav')" in done.stdout
    assert "extract.decoder  torchcodec does not work here" in done.stdout
    assert "install mmray[torchcodec] and FFmpeg" in done.stdout
    assert "extract.decoder  decord does not work here" in done.stdout


@pytest.fixture
def config(tmp_path):
    def config(decoder: str):
        path = tmp_path / "config.yaml"
        path.write_text(
            "output: out\nsamples: {manifest: m.jsonl}\ntargets: {t: {kind: regression}}\n"
            "features: {voice: {kind: mel}}\n"
        )
        return load_config(path, [f"extract.decoder={decoder}"])

    return config


def test_an_environment_names_the_decoders_and_their_versions(config):
    def sound(decoder: str) -> dict:
        project = config(decoder)
        return environment(project, project.features["voice"], "cpu")["decoders"]

    assert sound("pyav") == {"sound": "pyav", "av": importlib.metadata.version("av")}
    if works("decord"):
        assert sound("decord") == sound("pyav"), "it reads no sound"
    if works("torchcodec"):
        assert importlib.metadata.version("torchcodec") in sound("torchcodec")["torchcodec"]
