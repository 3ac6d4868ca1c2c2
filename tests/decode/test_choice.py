"""The decoders are chosen once, by what works here, and the spec names them."""

import importlib.metadata
import subprocess
import sys

import pytest

from mmray.config import load_config
from mmray.decode.choice import choose_decoders, decoder_versions
from mmray.errors import TableError
from mmray.tables.identity import feature_spec, require_same

ORDER = ["torchcodec", "decord", "pyav"]


def works(name: str) -> bool:
    """In a process of its own."""
    module = {"torchcodec": "torchcodec.decoders", "pyav": "av"}.get(name, name)
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def test_auto_is_the_first_that_works_and_decord_never_reads_sound():
    working = [name for name in ORDER if works(name)]
    assert choose_decoders("auto").frames == working[0]
    for name in working:
        assert choose_decoders(name) == (name, "torchcodec" if name == "torchcodec" else "pyav")


def test_a_decoder_that_cannot_be_loaded_is_a_fault_of_the_config(tmp_path):
    """In an interpreter in which both cannot be imported: `auto` goes on to PyAV, a name is refused."""
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


def test_the_spec_names_the_decoders_and_their_versions(config):
    made_with = feature_spec(config("pyav"))
    assert made_with["decoders"] == {
        "frames": "pyav",
        "sound": "pyav",
        "av": importlib.metadata.version("av"),
        "pillow": importlib.metadata.version("pillow"),
    }
    other = next(name for name in (*ORDER[:2], "none") if name == "none" or works(name))
    if other == "none":
        pytest.skip("only PyAV works here")
    with pytest.raises(TableError, match=f'decoders.frames: "pyav" → "{other}"'):
        require_same("table", made_with, feature_spec(config(other)), "")
    assert importlib.metadata.version(other) in str(decoder_versions(choose_decoders(other)))


def test_a_finished_table_asks_for_no_decoder(config):
    """It was made elsewhere: `auto` takes it as it is, a name that differs is refused."""
    made_with = feature_spec(config("pyav"))
    made_with["decoders"] |= {"frames": "torchcodec", "sound": "torchcodec", "torchcodec": "0.0.1, FFmpeg 99"}
    for setting in ("auto", "torchcodec"):
        assert feature_spec(config(setting), made_with) == made_with
    with pytest.raises(TableError, match=r"decoders\.frames"):
        require_same("table", made_with, feature_spec(config("decord"), made_with), "")
