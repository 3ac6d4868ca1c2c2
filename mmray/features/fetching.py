"""Media as local paths: fetched ahead of the decoder, once for all samples that share them."""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mmray.errors import MediaError
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch
from mmray.storage.uris import scheme_of

__all__ = ["LocalMedia"]

AHEAD = 4
"""Files on s3:// that are fetched, at once, while earlier samples are decoded; so many copies lie ready."""


class LocalMedia:
    """The media of samples that are taken one after another.

    A file is there from before its first use to after its last. The thread that decodes waits only for a
    file that has not come yet.
    """

    def __init__(self, storage: Storage, uses: Sequence[Sequence[str]]):
        """`uses`: the files each sample needs, in the order of the samples."""
        self.storage = storage
        self.uses = uses
        self.last_use = {uri: row for row, uris in enumerate(uses) for uri in uris}
        self.coming = iter(uri for uri in dict.fromkeys(uri for uris in uses for uri in uris) if _far(uri))
        self.fetches: dict[str, Future[str]] = {}
        """Of what is begun and not dropped."""
        self.copies: dict[str, contextlib.ExitStack] = {}
        self.paths: dict[str, str | MediaError] = {}
        self.ahead = 0
        self.fetched_bytes = 0
        self.threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="fetch")
        scratch()  # the folder of copies is made here, not by several threads at once
        self._fetch_ahead()

    def path(self, uri: str) -> str:
        """The local path of `uri`; raises MediaError `missing_file` or `fetch_failed`."""
        if uri not in self.paths:
            try:
                self.paths[uri] = path = self._begun(uri).result() if _far(uri) else self._fetch(uri)
                self.fetched_bytes += os.path.getsize(path)
            except MediaError as error:
                self.paths[uri] = error
            if _far(uri):
                self.ahead -= 1
                self._fetch_ahead()
        found = self.paths[uri]
        if isinstance(found, MediaError):
            raise found
        return found

    def drop(self, row: int) -> None:
        """Remove the copies that no sample after `row` needs."""
        for uri in self.uses[row]:
            if self.last_use[uri] == row and uri in self.copies:
                self.copies.pop(uri).close()

    def _fetch_ahead(self) -> None:
        # One alone until an object has come: refused keys end the job, and are not tried on many at once.
        while (
            self.ahead < (AHEAD if self.storage.has_read else 1)
            and (uri := next(self.coming, None)) is not None
        ):
            if uri not in self.fetches:
                self._begun(uri)

    def _begun(self, uri: str) -> "Future[str]":
        if uri not in self.fetches:
            self.fetches[uri] = self.threads.submit(self._fetch, uri)
            self.ahead += 1
        return self.fetches[uri]

    def _fetch(self, uri: str) -> str:
        stack = contextlib.ExitStack()
        path = stack.enter_context(self.storage.media(uri))
        self.copies[uri] = stack
        return path

    def __enter__(self) -> "LocalMedia":
        return self

    def __exit__(self, *exception: object) -> None:
        self.threads.shutdown(cancel_futures=True)
        for stack in self.copies.values():
            stack.close()


def _far(uri: str) -> bool:
    return scheme_of(uri) == "s3"
