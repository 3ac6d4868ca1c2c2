"""A seed → the demo's data set: short clips of a drawn face as real mp4 files, and their manifest.

The task is `emotion` in the four quadrants of Russell's circumplex (A circumplex model of affect,
J. Personality and Social Psychology 39, 1980), classes balanced:

                 unpleasant   pleasant
    aroused      angry        happy
    quiet        sad          calm

No modality tells the quadrant alone, by construction:

    video   valence only: the mouth of a drawn face curves up or down as the clip goes on, and the
            background leans warm or cool (`smile` and `warmth` of a clip, normal about either sign).
            Head, skin, place, size, brightness and sway vary without meaning.
    audio   arousal only: tone pulses, fast and high or slow and low (`rate_hz`, `pitch_hz`, log-normal
            about either). Loudness, timbre and background noise vary without meaning.
    text    a hint at valence (45 %), at arousal (45 %) or at neither (10 %), between words that mean
            nothing. In 15 % of the clips with a hint, the face or the sound leaves open what the words
            hint at: only these need the words.

Valence and arousal are independent, so the best accuracy to expect is 50 % from sight or sound alone,
0.9 · 1/2 + 0.1 · 1/4 = 47.5 % from the words alone, 93 % from sight and sound, nearly 100 % from all
three. (Learned from 144 clips as configs/demo.yaml says, mean of 3 data sets × 3 training seeds: 45,
45, 48, 89 and 91 %.) One clip in 40 is damaged on purpose (`DAMAGE`), the splits in turn.

Encoded by PyAV, whose wheel brings libx264 and an AAC encoder: no system FFmpeg, no network.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from mmray.errors import Reason
from mmray.storage.filesystem import Storage

__all__ = ["DAMAGE", "EMOTIONS", "Clip", "draw_frames", "plan_clips", "synthesize_sound", "write_clips"]

EMOTIONS = {"happy": (1, 1), "calm": (1, -1), "angry": (-1, 1), "sad": (-1, -1)}
"""Class → (valence, arousal)."""

DAMAGE: dict[str, Reason] = {
    "truncated": "unreadable",
    "no_audio": "no_audio_stream",
    "missing": "missing_file",
    "not_media": "unreadable",
}
"""What is wrong with a damaged clip → the reason it gets: of face and voice, or of the voice alone."""

FRAME_RATE_HZ = 12
SAMPLE_RATE_HZ = 16_000
WIDTH, HEIGHT = 128, 96

_SPLITS = {"train": 0.60, "val": 0.15, "test": 0.25}
_DAMAGED_ONE_IN = 40

_SKINS = ((255, 219, 172), (224, 172, 105), (141, 85, 60), (190, 200, 120))
_OPENINGS = (
    "This morning",
    "Last night",
    "After lunch",
    "On Tuesday",
    "At the station",
    "In the kitchen",
)
_HINTS = {
    "pleasant": ("everything went well", "they brought good news"),
    "unpleasant": ("everything went wrong", "they brought bad news"),
    "aroused": ("everybody was wide awake", "we had to hurry"),
    "quiet": ("everybody was half asleep", "we had time to rest"),
    "neither": ("everybody took the bus", "they brought a green coat"),
}
_ENDINGS = (
    "and my sister called",
    "as the clock struck nine",
    "near the old bridge",
    "and the door was open",
    "before the others came",
)


@dataclass(frozen=True)
class Clip:
    """One clip before it is drawn: its row of the manifest, and what its sight and sound are made from."""

    sample_id: str
    video: str
    """Path below the data set's folder."""
    text: str
    emotion: str
    split: str
    damage: str | None
    """A key of `DAMAGE`, or None where nothing is."""
    frames: int
    smile: float
    """Curve of the mouth: 1 a broad smile, -1 a deep frown."""
    warmth: float
    """Tint of the background: 1 orange, -1 blue."""
    rate_hz: float
    """Tone pulses per second."""
    pitch_hz: float
    nuisance_seed: tuple[int, int]
    """Of everything that varies without meaning."""


def plan_clips(clips: int = 240, seed: int = 0) -> list[Clip]:
    """What each clip will be; the same for the same arguments. Splits are stratified by class."""
    rng = np.random.default_rng(seed)
    emotions = rng.permutation(np.resize(list(EMOTIONS), clips))
    splits = _stratified(emotions)
    damage = _damaged(splits, rng)
    return [
        _plan(index, str(emotions[index]), splits[index], damage.get(index), seed) for index in range(clips)
    ]


def write_clips(folder: str, *, clips: int = 240, seed: int = 0) -> list[dict]:
    """Write `folder`/clips/*.mp4 (H.264, AAC), then `folder`/manifest.jsonl.

    The manifest has sample_id, video (a path relative to it), text, emotion and split. The rows
    returned also have `damage`: a key of `DAMAGE`, or None.
    """
    planned = plan_clips(clips, seed)
    columns = ("sample_id", "video", "text", "emotion", "split", "damage")
    rows = [{column: getattr(clip, column) for column in columns} for clip in planned]
    for clip in planned:
        _write(clip, Path(folder) / clip.video)
    lines = [json.dumps({key: value for key, value in row.items() if key != "damage"}) + "\n" for row in rows]
    Storage().write(f"{folder}/manifest.jsonl", "".join(lines).encode())
    return rows


def draw_frames(clip: Clip) -> np.ndarray:
    """The clip's pictures, uint8 [T, H, W, 3]: a face that sways while its mouth takes shape."""
    rng = np.random.default_rng((*clip.nuisance_seed, 0))
    light = rng.uniform(0.75, 1.1)
    tint = np.array([1.0, 0.0, -1.0]) * 50 * clip.warmth
    background = _colour(light * (145 + tint + rng.normal(0, 10, 3)))
    skin = _colour(light * np.array(_SKINS[rng.integers(len(_SKINS))]))
    ink = _colour(rng.uniform(10, 50, 3))
    radius = rng.uniform(31, 38)
    centre = np.array([WIDTH / 2, HEIGHT / 2]) + rng.uniform(-1, 1, 2) * (8, 4)
    sway, sway_hz, phase = rng.uniform(1, 4), rng.uniform(0.3, 2), rng.uniform(0, 2 * np.pi)
    frames = []
    for t in range(clip.frames):
        angle = 2 * np.pi * sway_hz * t / FRAME_RATE_HZ + phase
        at = centre + sway * np.array([np.cos(angle), 0.4 * np.sin(2 * angle)])
        frames.append(_face(at, radius, clip.smile * min(1, (t + 1) / 6), background, skin, ink))
    return np.stack(frames)


def synthesize_sound(clip: Clip) -> np.ndarray:
    """The clip's sound, float32 [S] within ±1, as long as its pictures: decaying tone pulses and noise."""
    rng = np.random.default_rng((*clip.nuisance_seed, 1))
    time_s = np.arange(round(clip.frames / FRAME_RATE_HZ * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    since_pulse_s = np.mod(time_s * clip.rate_hz + rng.uniform(), 1) / clip.rate_hz
    envelope = np.exp(-since_pulse_s / rng.uniform(0.04, 0.12)) * np.minimum(1, since_pulse_s / 0.005)
    tone = sum(
        strength * np.sin(2 * np.pi * harmonic * clip.pitch_hz * time_s)
        for harmonic, strength in enumerate((1, *rng.uniform(0, 0.6, 2)), start=1)
    )
    loudness, noise = rng.uniform(0.1, 0.35), rng.uniform(0.002, 0.04)
    sound = loudness * envelope * tone + noise * rng.standard_normal(len(time_s))
    return np.clip(sound, -1, 1).astype(np.float32)


def _plan(index: int, emotion: str, split: str, damage: str | None, seed: int) -> Clip:
    rng = np.random.default_rng((seed, index))
    valence, arousal = EMOTIONS[emotion]
    hint = rng.choice(
        ["pleasant" if valence > 0 else "unpleasant", "aroused" if arousal > 0 else "quiet", "neither"],
        p=[0.45, 0.45, 0.10],
    )
    left_open = hint if rng.uniform() < 0.15 else None
    seen = 0 if left_open in ("pleasant", "unpleasant") else valence
    heard = 0 if left_open in ("aroused", "quiet") else arousal
    words = (rng.choice(_OPENINGS), rng.choice(_HINTS[hint]), rng.choice(_ENDINGS))
    return Clip(
        sample_id=f"clip_{index:04d}",
        video=f"clips/clip_{index:04d}.mp4",
        text=" ".join(words) + ".",
        emotion=emotion,
        split=split,
        damage=damage,
        frames=int(rng.integers(18, 25)),
        smile=float(rng.normal(0.8 * seen, 0.2)),
        warmth=float(rng.normal(0.6 * seen, 0.25)),
        rate_hz=float(3.5 * np.exp(rng.normal(0.55 * heard, 0.15))),
        pitch_hz=float(350 * np.exp(rng.normal(0.5 * heard, 0.2))),
        nuisance_seed=(seed, index),
    )


def _stratified(emotions: np.ndarray) -> list[str]:
    """A split a clip, in the same shares for every class."""
    splits = np.empty(len(emotions), dtype=object)
    for emotion in EMOTIONS:
        where = np.flatnonzero(emotions == emotion)
        ends = np.round(np.cumsum(list(_SPLITS.values())) * len(where)).astype(int)
        for split, part in zip(_SPLITS, np.split(where, ends[:-1]), strict=True):
            splits[part] = split
    return splits.tolist()


def _damaged(splits: list[str], rng: np.random.Generator) -> dict[int, str]:
    """Index → damage: one clip in 40, the kinds and the splits in turn."""
    damaged: dict[int, str] = {}
    for number in range(len(splits) // _DAMAGED_ONE_IN):
        split = list(_SPLITS)[number % len(_SPLITS)]
        whole = [i for i, other in enumerate(splits) if other == split and i not in damaged]
        damaged[int(rng.choice(whole))] = list(DAMAGE)[number % len(DAMAGE)]
    return damaged


def _write(clip: Clip, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match clip.damage:
        case "missing":
            path.unlink(missing_ok=True)
        case "not_media":
            path.write_bytes(np.random.default_rng(clip.nuisance_seed).bytes(4096))
        case "no_audio":
            _encode(path, draw_frames(clip), None)
        case _:
            _encode(path, draw_frames(clip), synthesize_sound(clip))
    if clip.damage == "truncated":
        os.truncate(path, path.stat().st_size * 2 // 3)


def _encode(path: Path, frames: np.ndarray, sound: np.ndarray | None) -> None:
    """Frames [T, H, W, 3] and sound [S] → an mp4 file, its index (moov) at the end."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=FRAME_RATE_HZ, options={"preset": "ultrafast", "crf": "28"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        if sound is not None:
            audio = file.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
            audio.bit_rate = 32_000
        for picture in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        if sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate = SAMPLE_RATE_HZ
            file.mux(audio.encode(samples))
            file.mux(audio.encode())


def _face(
    centre: np.ndarray,
    radius: float,
    smile: float,
    background: tuple[int, ...],
    skin: tuple[int, ...],
    ink: tuple[int, ...],
) -> np.ndarray:
    """One picture [H, W, 3], drawn at twice its size and halved, so that edges are smooth."""
    image = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), background)
    draw = ImageDraw.Draw(image)
    x, y, r = (2 * float(value) for value in (*centre, radius))
    draw.circle((x, y), r, fill=skin, outline=ink, width=3)
    for side in (-1, 1):
        draw.circle((x + side * 0.38 * r, y - 0.28 * r), 0.11 * r, fill=ink)
    across = np.linspace(-1, 1, 15)
    down = 0.40 * r + 0.36 * r * smile * (0.5 - across**2)
    mouth = list(zip(x + 0.58 * r * across, y + down, strict=True))
    draw.line(mouth, fill=ink, width=round(0.15 * r), joint="curve")
    return np.asarray(image.reduce(2))


def _colour(rgb: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(rgb, 0, 255))
