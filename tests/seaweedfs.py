"""A real S3 server on loopback: SeaweedFS, which asks for a signature, and can be stopped and started again.

One process with four services; each takes a port for its clients and one for the others.
"""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import s3fs

from tests.postgresql import free_ports


class SeaweedFS:
    """A server over a folder, with one user. `start` and `stop` as often as you like: the folder keeps the objects."""

    def __init__(self, folder: Path, key: str, secret: str):
        self.folder = folder
        self._client = {"key": key, "secret": secret}
        ports = iter(free_ports(8))
        services = {name: (next(ports), next(ports)) for name in ("master", "volume", "filer", "s3")}
        self.url = f"http://127.0.0.1:{services['s3'][0]}"
        # It takes this pair as that of its administrator, as in deploy/compose.yaml.
        self._environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        (folder / "data").mkdir()
        options = [
            *("-dir=data", "-ip=127.0.0.1", "-s3", "-filer", "-s3.iam=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.electionTimeout=1s"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.preStopSeconds=0"),
        ]
        options += [f"-{name}.port={port}" for name, (port, _) in services.items()]
        options += [f"-{name}.port.grpc={port}" for name, (_, port) in services.items()]
        self._command = [str(Path(sys.executable).with_name("weed")), "server", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it keeps what it is given and gives back what it had, which is some time after it answers."""
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        stop = time.monotonic() + 60
        while True:
            with contextlib.suppress(Exception):  # each moment of its start has another error
                store = self.client(retries=0)
                store.pipe_file("probe/up", b"up")  # an empty file would need no volume
                for bucket in store.ls("/"):
                    store.cat(store.find(bucket))  # the volumes of a bucket are known later than the bucket is
                return
            assert time.monotonic() < stop and self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, as a machine that goes down."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self, retries: int = 3) -> Any:
        """A file system of it, which remembers nothing."""
        return s3fs.S3FileSystem(
            **self._client, endpoint_url=self.url, skip_instance_cache=True, use_listings_cache=False,
            config_kwargs={"retries": {"max_attempts": retries}},
        )  # fmt: skip
