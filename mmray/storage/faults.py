"""How S3 is reached, and what its faults mean: try again, give one object up, or stop the job.

    again     the server is busy, the network failed, a body was cut off: wait, then go on where it stopped
    missing   there is no such object
    denied    this object may not be read; whether any may, the caller has to find out
    refused   anything else the server says no to
    stop      no object can be read: keys that are absent, wrong or expired, or no disk space for copies

Waits grow exponentially under full jitter (Brooker, "Exponential Backoff and Jitter", AWS Architecture
Blog, 2015), as in botocore's standard mode, which serves every call but the reading of media: that one is
tried here, because the number of attempts belongs in the sample's row, and a long body is resumed.
"""

import errno
import os
import random
import time
from collections.abc import Iterator
from typing import IO, Any, Literal

from mmray.config import StorageConfig

__all__ = ["Download", "attempts", "endpoint_url", "explain", "options", "verdict"]

Verdict = Literal["again", "missing", "denied", "refused", "stop"]

MOST_WAIT_S = 20.0
CHUNK_BYTES = 2**20

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
KEYS = (
    "AccountProblem",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
BUSY = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests")


def endpoint_url(config: StorageConfig) -> str | None:
    """The config's server, else the environment's; None: AWS."""
    return config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def options(config: StorageConfig, max_attempts: int) -> dict[str, Any]:
    """What s3fs is made with; each request is made `max_attempts` times before it counts as failed."""
    return {
        "anon": config.anonymous,
        "profile": config.profile,
        "endpoint_url": endpoint_url(config),
        "client_kwargs": {"region_name": config.region} if config.region else {},
        "config_kwargs": {
            "retries": {"total_max_attempts": max_attempts, "mode": "standard"},
            "connect_timeout": 5,
            "read_timeout": config.read_timeout_s,
        },
        "use_listings_cache": False,
    }


def attempts(most: int, wait_s: float) -> Iterator[int]:
    """1 … `most`, with a wait before each but the first, of up to `wait_s`, 2 `wait_s`, 4 `wait_s` …"""
    for attempt in range(1, most + 1):
        if attempt > 1:
            time.sleep(random.uniform(0, min(MOST_WAIT_S, wait_s * 2 ** (attempt - 2))))
        yield attempt


def verdict(error: BaseException | None) -> Verdict:
    """What a fault of s3fs, or of what it is made of, means for the object that was asked for."""
    from botocore.exceptions import (
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        ProfileNotFound,
        TokenRetrievalError,
    )

    if isinstance(
        error, NoCredentialsError | PartialCredentialsError | ProfileNotFound | TokenRetrievalError
    ):
        return "stop"
    if isinstance(error, ParamValidationError):
        return "refused"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return "stop"
    answer = _answer(error)
    if not answer:  # no answer, or half of one
        return "missing" if isinstance(error, FileNotFoundError) else "again"
    code, status = answer["Error"].get("Code"), answer["ResponseMetadata"]["HTTPStatusCode"]
    if code in KEYS:
        return "stop"
    if status >= 500 or status == 429 or code in BUSY:
        return "again"
    if isinstance(error, FileNotFoundError):
        return "missing"
    return "denied" if status in (401, 403) else "refused"


def _answer(error: BaseException | None) -> dict[str, Any] | None:
    """What the server answered, where it did: s3fs puts its own error before botocore's."""
    return getattr(error, "response", None) or getattr(error and error.__cause__, "response", None)


def explain(error: Exception, config: StorageConfig) -> str:
    """A fault in one line, with what to check."""
    from botocore.exceptions import NoCredentialsError, ParamValidationError, ProfileNotFound

    fault = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return "no such file or bucket"
    if isinstance(error, NoCredentialsError):
        return "no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile"
    if isinstance(error, ProfileNotFound | ParamValidationError):
        return fault
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"no space for a local copy ({fault}); set TMPDIR to a larger disk"
    if isinstance(error, PermissionError) or verdict(error) == "stop":
        return f"access denied ({fault}); check the keys, storage.profile and the bucket's policy"
    return f"{fault}; check storage.endpoint_url ({endpoint_url(config) or 'AWS'}) and the network"


class Download:
    """One object, or `size` bytes of it from `start`, into a file, in as many parts as it takes."""

    def __init__(self, filesystem: Any, path: str, file: IO[bytes], start: int = 0, size: int | None = None):
        self.filesystem = filesystem
        self.bucket, self.key, _ = filesystem.split_path(path)
        self.file = file
        self.start = start
        self.size = size
        self.etag: str | None = None

    def go_on(self) -> None:
        """Read on from where the last part ended, or from the beginning where that part has no ETag.

        Raises:
            Exception: s3fs's, botocore's or aiohttp's, also where a body is shorter than it declares.

        """
        from fsspec.asyn import sync

        if self.size != self.file.tell():
            sync(self.filesystem.loop, self._go_on)

    async def _go_on(self) -> None:
        if not self.etag and self.file.tell():
            self._start_over()
        part = {"IfMatch": self.etag} if self.etag else {}
        if self.size is not None or self.file.tell():
            last = "" if self.size is None else self.start + self.size - 1
            part["Range"] = f"bytes={self.start + self.file.tell()}-{last}"
        answer = await self.filesystem._call_s3("get_object", Bucket=self.bucket, Key=self.key, **part)
        if "Range" in part and "ContentRange" not in answer:  # the whole object, which was not asked for
            if self.size is not None:
                raise OSError("the server does not give parts of an object")
            self._start_over()
        self.etag = answer.get("ETag")
        async with answer["Body"] as body:
            while data := await body.read(CHUNK_BYTES):
                self.file.write(data)
        self.file.flush()

    def _start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()
