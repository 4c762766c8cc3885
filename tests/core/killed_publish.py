"""Publish a version of a coreset, and die at a step: `python -m tests.core.killed_publish FOLDER OPTIONS VERSION STEP`.

Against an object store a step is a request that writes or removes.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from upath import UPath

from dselect_core.coreset.published import FILES, MANIFEST, publish


def contents(version: str) -> dict[str, bytes]:
    """{file: content} of a version. They differ in every file, and in size."""
    return {name: f"{name} of {version}\n".encode() * (3 + ord(version[0]) % 7) for name in FILES if name != MANIFEST}


def publish_version(folder: UPath, version: str, keep: int = 3, **more: str) -> None:
    publish(folder, contents(version).items(), {"recipe": "r", "version": version, **more}, keep)


def main(folder: str, options: str, version: str, step: str) -> None:
    path = UPath(folder, **json.loads(options))
    left = int(step)

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)

        return counted

    path.fs.pipe_file, path.fs.rm_file = dying(path.fs.pipe_file), dying(path.fs.rm_file)
    publish_version(path, version)


if __name__ == "__main__":
    main(*sys.argv[1:])
