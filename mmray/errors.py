"""Every fault mmray raises on purpose, as one tree.

    MmrayError                the user can act on it: printed as it is, exit code 1, no traceback
    ├── ConfigError           the config is wrong: all its faults at once
    ├── SamplesError          the manifest is wrong: missing, duplicate ids, missing columns, unknown labels
    ├── StorageError          a path cannot be read or written
    │   └── UnreachableError  storage does not answer, or is too busy: exit code 75, try again
    ├── TableError            a table or checkpoint is not what the config needs (absent, other fingerprint)
    ├── LockedError           another driver is at work on this output: exit code 75, try again
    ├── PlanError             the job cannot fit the cluster: refused with the arithmetic
    ├── BudgetError           more samples failed than `max_failed_fraction` allows
    ├── WorkerError           the processes that do the work die again and again: exit code 75, try again
    │   └── StalledError      nothing has moved for too long: exit code 75
    └── MediaError            one modality of one sample failed: becomes a row's error, never ends a job

Anything else that escapes is a bug in mmray and shows its traceback.
"""

from typing import Literal

__all__ = [
    "BudgetError",
    "ConfigError",
    "LockedError",
    "MediaError",
    "MmrayError",
    "PlanError",
    "Reason",
    "SamplesError",
    "StalledError",
    "StorageError",
    "TableError",
    "UnreachableError",
    "WorkerError",
]

Reason = Literal[
    "absent",  # the manifest gives no value: not a failure, only a modality the sample does not have
    "missing_file",  # the URI points to nothing
    "fetch_failed",  # storage answered with an error, after retries
    "unreadable",  # no decoder recognises the bytes
    "no_video_stream",
    "no_audio_stream",
    "no_frames",  # a video stream without a decodable frame in the segment
    "no_face",  # what a crop is to follow is in none of the pictures
    "corrupt",  # decoding began and failed
    "short_video",  # fewer seconds decoded than the container declares
    "short_audio",  # fewer seconds decoded than the container declares
    "bad_segment",  # start_s / end_s outside the recording
    "decoder_crashed",  # the decoding process died of the file
    "decoder_timed_out",  # decoding took longer than extract.decode_timeout_s
    "decoder_out_of_memory",  # decoding took more memory than extract.decode_memory_mb
    "encoder_out_of_memory",  # one sample alone does not fit the encoder's device
    "empty",  # decoded to nothing: an empty text, a waveform of zero samples
]


TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


class MmrayError(Exception):
    """A fault the user can act on: what is wrong, where, and what to do."""

    exit_code = 1
    """What the command ends with: 1 where trying again is no use, 75 where it may be."""


class ConfigError(MmrayError):
    """The config is wrong; `faults` lists every fault as (dotted path, message)."""

    def __init__(self, source: str, faults: list[tuple[str, str]]):
        self.source = source
        self.faults = faults
        width = max((len(path) for path, _ in faults), default=0)
        count = f"{len(faults)} fault" + ("s" if len(faults) != 1 else "")
        lines = [f"  {path:<{width}}  {message}".rstrip() for path, message in faults]
        super().__init__("\n".join([f"{source} has {count}:", *lines]))

    def __reduce__(self):
        return ConfigError, (self.source, self.faults)


class SamplesError(MmrayError):
    """The samples are not what the config says they are."""


class StorageError(MmrayError):
    """A path cannot be read or written."""


class UnreachableError(StorageError):
    """Storage does not answer, or is too busy to: trying again later may do."""

    exit_code = TRY_AGAIN


class TableError(MmrayError):
    """A table or a checkpoint is absent, or was made with something else than the config says."""


class LockedError(MmrayError):
    """Another driver is at work on the same output; the message says which."""

    exit_code = TRY_AGAIN


class PlanError(MmrayError):
    """The job cannot run on this cluster; the message carries the arithmetic."""


class BudgetError(MmrayError):
    """Too large a fraction of the samples failed."""


class WorkerError(MmrayError):
    """The processes that do the work die again and again."""

    exit_code = TRY_AGAIN


class StalledError(WorkerError):
    """Nothing has moved for too long; the message says what is waited for."""


class MediaError(MmrayError):
    """One modality of one sample failed for `reason`, after `attempts`; its row stays and says so."""

    def __init__(self, reason: Reason, detail: str = "", attempts: int = 1):
        self.reason: Reason = reason
        self.detail = detail
        self.attempts = attempts
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self):
        return MediaError, (self.reason, self.detail, self.attempts)
