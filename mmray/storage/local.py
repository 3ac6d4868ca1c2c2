"""Folders of this machine, links followed."""

import os
import stat
from typing import Any

__all__ = ["files_below"]


def files_below(folder: str) -> dict[str, dict[str, Any]]:
    """{path: {type, size, mtime}} of all that is below a folder but folders and hidden files, sorted.

    `type` is `file`, also of a link to one; `link`: it leads nowhere, or to a folder that is read already (as
    itself, or through another link), so that loops end; `other`: a pipe, a device, a socket.
    """
    found: dict[str, dict[str, Any]] = {}
    seen: set[tuple[int, int]] = set()
    linked = [os.path.abspath(folder)]
    while linked:
        # Real folders first: a folder is known by its own name, where it has one below here.
        queue, linked = sorted(linked), []
        while queue:
            path = queue.pop(0)
            about = os.stat(path)
            if (about.st_dev, about.st_ino) in seen:
                found[path] = {"type": "link", "size": 0, "mtime": about.st_mtime}
                continue
            seen.add((about.st_dev, about.st_ino))
            for entry in os.scandir(path):
                if entry.name.startswith("."):
                    continue
                try:
                    about = entry.stat()
                except OSError:  # a link that leads nowhere, or to itself
                    found[entry.path] = {
                        "type": "link",
                        "size": 0,
                        "mtime": entry.stat(follow_symlinks=False).st_mtime,
                    }
                    continue
                if stat.S_ISDIR(about.st_mode):
                    (linked if entry.is_symlink() else queue).append(entry.path)
                    continue
                kind = "file" if stat.S_ISREG(about.st_mode) else "other"
                found[entry.path] = {"type": kind, "size": about.st_size, "mtime": about.st_mtime}
    return dict(sorted(found.items()))
