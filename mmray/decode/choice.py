"""The setting `extract.decoder` → the decoders that read frames and sound, the same on every machine.

They are chosen once, where a run starts, and written into the feature table's spec; a worker that cannot
load them stops the run instead of reading with others.
"""

import importlib.metadata
from functools import lru_cache
from typing import NamedTuple

from mmray.errors import ConfigError

__all__ = ["Decoders", "choose_decoders", "decoder_versions"]

REMEDIES = {
    "torchcodec": "install mmray[torchcodec] and FFmpeg's shared libraries (Debian: apt-get install ffmpeg), "
    "or set extract.decoder: auto",
    "decord": "decord has wheels for x86-64 Linux only; set extract.decoder: auto",
}


class Decoders(NamedTuple):
    """Names of the decoders; images are always Pillow's, sound is always PyAV's."""

    frames: str
    """`torchcodec`, `decord` or `pyav`."""
    sound: str = "pyav"


def choose_decoders(setting: str) -> Decoders:
    """`auto` is PyAV, which reads all that FFmpeg does and is as fast here; else the one named.

    Raises:
        ConfigError: where the one named does not work here.

    """
    if setting in REMEDIES and (fault := _fault(setting)):
        message = f"{setting} does not work here ({fault}); {REMEDIES[setting]}"
        raise ConfigError("config", [("extract.decoder", message)])
    return Decoders("pyav" if setting == "auto" else setting)


def decoder_versions(decoders: Decoders) -> dict[str, str]:
    """The decoders and the versions of all that decides what they give: PyAV also finds the frames."""
    packages = {"av": importlib.metadata.version("av"), "pillow": importlib.metadata.version("pillow")}
    if decoders.frames == "decord":
        packages["decord"] = importlib.metadata.version("decord")
    elif decoders.frames == "torchcodec":
        from torchcodec import ffmpeg_major_version  # pyright: ignore[reportPrivateImportUsage, reportMissingImports]

        packages["torchcodec"] = f"{importlib.metadata.version('torchcodec')}, FFmpeg {ffmpeg_major_version}"
    return {**decoders._asdict(), **packages}


@lru_cache
def _fault(package: str) -> str | None:
    """Why a decoder cannot be loaded here; None where it can."""
    try:
        if package == "torchcodec":
            import torchcodec.decoders  # noqa: F401  # pyright: ignore[reportMissingImports]  # loads FFmpeg
        else:
            import decord  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
