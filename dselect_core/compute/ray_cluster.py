"""The connection of this process to a Ray cluster, and how many workers its nodes hold.

Ray is imported where the settings name it and nowhere else. It sends no usage statistics from here and starts no
dashboard; what workers print stays in Ray's own logs on their nodes.
"""

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from dselect_core.errors import DselectError, UnreachableError, first_line
from dselect_core.redact import redact
from dselect_core.settings.compute_spec import ComputeSpec

CPUS_PER_WORKER = 1
"""Ray gives a worker as many threads of torch, too."""
_CONNECT_SECONDS = 10.0


def connected(spec: ComputeSpec) -> Any:
    """The module `ray`, connected to the cluster that the settings name; as it is, where this process is connected.

    Raises DselectError where Ray is not installed, UnreachableError where the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which a Ray reads that is started here
    try:
        import ray
    except ImportError as error:
        raise DselectError(
            f"compute.engine: `ray` needs a package that is not there ({first_line(error)}): pip install 'dselect[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    address = spec.address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **own)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, by what failed where
        raise UnreachableError(
            f"compute.address: `{redact(address)}` cannot be joined: {first_line(error)}. A run joins a cluster from a "
            "machine that is a node of it (`ray start --address=HOST:6379`), or from anywhere by `ray://HOST:10001`; "
            "Python and Ray must be of the cluster's versions"
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Ray itself would try for a minute, and end the process."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = place.port
    except ValueError as error:
        raise DselectError(f"compute.address: `{redact(address)}`: {error}. Write `host:6379`") from error
    if place.hostname is None or port is None:
        if address not in ("auto", "local"):
            raise DselectError(
                f"compute.address: `{redact(address)}` is none. Write `host:6379`, `ray://host:10001` or `auto`"
            )
        return
    try:
        socket.create_connection((place.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UnreachableError(
            f"compute.address: `{redact(address)}` does not answer ({error}). Is the cluster's head up (`ray start "
            "--head`), and can it be reached from here? Or say `engine: local`"
        ) from error


def room(ray: Any, spec: ComputeSpec) -> int:
    """How many workers the living nodes hold, whoever uses them now."""
    found = 0
    for node in ray.nodes():
        if node["Alive"]:
            free = int(node["Resources"].get("CPU", 0) // CPUS_PER_WORKER)
            if spec.gpus_per_worker:
                free = min(free, int(node["Resources"].get("GPU", 0) / spec.gpus_per_worker + 1e-9))
            found += free
    return found
