"""The frame, picture and words of some samples, small enough to stand in a page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.config import Config
from mmray.errors import MmrayError
from mmray.samples.index import Index
from mmray.storage.filesystem import Storage

__all__ = ["seen_of"]

SIDE_PX = 160
QUALITY = 70
LETTERS = 200
TIMEOUT_S = 20.0


def seen_of(config: Config, storage: Storage, index: Index, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{sample_id: {picture: a data URI or None, text}} of these samples, as `report` of the config allows.

    The picture is the middle frame of the video, else the image. What cannot be read has none: the page's
    tables of failures say why.
    """
    columns = [name for name in ("video", "image", "text") if name in index.columns(storage)]
    if not ids or not columns:
        return {}
    rows = index.small(storage, ["sample_id", "start_s", "end_s", *columns])
    rows = rows.filter(pc.is_in(rows["sample_id"], pa.array(list(ids))))  # pyright: ignore[reportAttributeAccessIssue]
    place = {name: at for at, name in enumerate(ids)}
    found = {}
    with _Reader(config, storage) as reader:
        for row in sorted(rows.to_pylist(), key=lambda row: place[row["sample_id"]]):
            picture = reader(row) if place[row["sample_id"]] < config.report.thumbnails else None
            text = row.get("text") if config.report.texts else None
            text = f"{text[:LETTERS]}…" if text and len(text) > LETTERS else text
            found[row["sample_id"]] = {"picture": picture, "text": text}
    return found


class _Reader:
    """Decodes one frame of a sample, in a child process."""

    def __init__(self, config: Config, storage: Storage):
        from mmray.decode.isolation import Sandbox

        self.storage, self.decoder = storage, config.extract.decoder
        self.sandbox = Sandbox(timeout_s=TIMEOUT_S, memory_mb=config.extract.decode_memory_mb)

    def __call__(self, row: dict[str, Any]) -> str | None:
        from mmray.decode.choice import choose_decoders
        from mmray.decode.image import PictureGeometry
        from mmray.decode.media import decode
        from mmray.decode.wanted import Pictures

        uri = row.get("video") or row.get("image")
        if not uri:
            return None
        square = PictureGeometry(crop=None, resize_px=SIDE_PX, crop_px=SIDE_PX)
        wanted = Pictures(square, still=not row.get("video"), frames=1)
        segment = {"start_s": row["start_s"], "end_s": row["end_s"]}
        try:
            with self.storage.media(uri) as path:
                frames = self.sandbox.call(decode, wanted, path, segment, choose_decoders(self.decoder))
        except MmrayError:  # a sample without a picture, as the table of failures tells
            return None
        return _jpeg(frames.pixels[0])  # pyright: ignore[reportAttributeAccessIssue]

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.sandbox.close()


def _jpeg(pixels_HW3: np.ndarray) -> str:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(pixels_HW3).save(sink, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
