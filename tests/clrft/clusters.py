"""A real Ray cluster of several nodes on this machine, made with Ray's own utilities, on loopback."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clrft.sweep.ray_cluster import quiet_ray
from clrft.utils.process_identity import stat_of
from tests.clrft.counted import until


class Nodes:
    """A cluster whose nodes can be killed."""

    def __init__(self, cluster: Any, port: int) -> None:
        self.cluster = cluster
        self.client = f"ray://127.0.0.1:{port}"

    def kill(self, node: Any) -> None:
        """SIGKILL to a node's raylet; its workers end with it."""
        self.cluster.remove_node(node, allow_graceful=False)

    def runs(self, node: Any, process: int) -> bool:
        """Whether a process is a worker of a node: its raylet's child."""
        (raylet,) = node.all_processes["raylet"]
        return stat_of(process)[1:2] == [str(raylet.process.pid)]


@contextmanager
def cluster_of(*cpus: int, port: int = 0, **head: Any) -> Iterator[Nodes]:
    """A cluster with a head node and others, each with so many CPUs; ``port``: of Ray Client, none if 0."""

    def answers() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    quiet_ray(local=True)
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # a client's server, forked beside busy threads, may die else
    from ray.cluster_utils import Cluster

    asked = {"num_cpus": cpus[0], "include_dashboard": False, **({"ray_client_server_port": port} if port else {})}
    cluster = Cluster(initialize_head=True, head_node_args={**asked, **head})
    try:
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count)
        if port:
            until(answers, 60.0)  # Ray starts its client's server on the side
        yield Nodes(cluster, port)
    finally:
        cluster.shutdown()
        os.environ.pop("RAY_ADDRESS", None)


def shadowed(folder: Path, package: str, version: str) -> str:
    """A folder that, put on PYTHONPATH, lets a package be of another version by its metadata."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return str(folder)
