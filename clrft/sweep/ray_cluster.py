"""A Ray cluster as a sweep finds it: reached, each node asked what it has, refused where cells cannot run.

A Ray of this machine listens on loopback alone, without a dashboard. Ray's usage reports and its own chatter are off.
Deliberately absent: sending the code to the nodes. Every node has clrft installed, and shares the run folders.
"""

import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clrft.runs.provenance import source_hash, versions
from clrft.utils.files import sha256_file
from task_streams.errors import UserError

CODE = "clrft's source (SHA-256)"
SAME = ("clrft", "torch", "transformers", "trl", "ray")  # packages whose versions decide results, or what is understood
LOCAL, CLIENT = "ray", "ray://"
LOOPBACK = "127.0.0.1"
REACH_SECONDS = 5.0
JOIN_SECONDS = 150.0  # a Ray that is busy, or whose machine is, takes its time; one that is none never answers
TRIES = 3  # to join: Ray forks a server for each client beside busy threads, and one in many dies of that
PROBE_SECONDS = 180.0  # for every node to start a process and tell about itself
ASK_SECONDS = 0.5  # before a node that others do not know yet is asked anew
FORMS = "expected ray (on this machine), ray://HOST:PORT (Ray Client, port 10001 as a rule) or HOST:PORT (port 6379)"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive."""

    key: str  # Ray's name of it
    address: str  # where it is
    resources: dict[str, Any]  # what it has, as Ray counts it
    host: str = ""  # name of its machine, as its processes see it; empty until it was asked


def about_node(directory: str, marks: Sequence[str], plugins: Sequence[str]) -> dict[str, Any]:
    """What a node has, which goes to the folder in which the sweep was started.

    Returns:
        ``host``, ``versions``, whether there is such a ``directory``, those of ``marks`` (files that the sweep has just
        made in the folders of its cells) that are ``unseen``, and the SHA-256 of each of ``plugins``, empty for one
        that is missing.
    """
    if os.path.isdir(directory):
        os.chdir(directory)
    files = {path: Path(path).expanduser() for path in plugins}
    return {
        "host": socket.gethostname(),
        "versions": {**versions(SAME), CODE: source_hash()[:12]},
        "directory": os.path.isdir(directory),
        "unseen": [mark for mark in marks if not os.path.exists(mark)],
        "plugins": {path: sha256_file(file) if file.is_file() else "" for path, file in files.items()},
    }


def check_address(on: str) -> None:
    """Refuse what is no address, an address at which nothing answers, and any of them without Ray.

    Raises:
        UserError: says which, and what to do.
    """
    if find_spec("ray") is None:
        raise UserError(f"--on {on}: Ray is not installed; expected the package ray (pip install 'clrft[ray]').")
    if on == LOCAL:
        return
    host, _, port = on.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host:
        raise UserError(f"--on: got {on!r}, {FORMS}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--on: nothing answers at {host}:{port} ({error.strerror or error}); {FORMS}. A cluster is started with "
            "ray start --head; docs/clusters.md has recipes."
        ) from error


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Be connected to a cluster, or to a Ray of this machine that lives as long as the block; yields the module.

    Raises:
        UserError: it is not to be joined, e.g. as it has another version of Ray or Python, or others could reach it.
    """
    quiet_ray(on == LOCAL)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"address": on}
    if on == LOCAL:
        cores = len(os.sched_getaffinity(0))
        settings = {"address": "local", "include_dashboard": False, "_node_ip_address": LOOPBACK, "num_cpus": cores}
    join(on, ray, {**settings, "log_to_driver": False, "logging_level": logging.ERROR})
    try:
        addresses = {node.address for node in nodes_of(ray)}
        if on == LOCAL and addresses != {LOOPBACK}:  # as when Ray was imported before ``quiet_ray``
            raise UserError(
                f"--on ray: Ray listens on {', '.join(sorted(addresses))}, expected {LOOPBACK} alone; set "
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported."
            )
        yield ray
    finally:
        ray.shutdown()


def join(on: str, ray: Any, settings: dict[str, Any]) -> None:
    """Connect; once more where a server of Ray's died at birth, see ``TRIES``.

    Raises:
        UserError: it is not to be joined.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    for left in reversed(range(TRIES)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**settings)
            return
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            check_again(on, " ".join(str(error).split()), left)
            ray.shutdown()
        finally:
            for number, handler in handlers.items():  # Ray would replace this process's own
                signal.signal(number, handler)


def check_cluster(on: str) -> None:
    """Join a cluster in a process of its own first: where no Ray listens, Ray waits for minutes and then aborts.

    A Ray of this machine is yet to be started.

    Raises:
        UserError: it cannot be joined; what Ray says.
    """
    if on == LOCAL:
        return
    quiet_ray(local=False)
    words = [sys.executable, "-c", "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)", on]
    for left in reversed(range(TRIES)):
        try:
            tried = subprocess.run(words, capture_output=True, text=True, timeout=JOIN_SECONDS)
        except subprocess.TimeoutExpired:
            check_again(on, f"no Ray answered there within {JOIN_SECONDS:.0f} s", 0)
        else:
            if tried.returncode == 0:
                return
            check_again(on, (tried.stderr.strip().splitlines() or ["Ray gives no reason"])[-1], left)


def check_again(on: str, said: str, left: int) -> None:
    """Refuse a cluster that was not joined, unless tries are left and what Ray says may be another thing the next time.

    It may not if it is of versions, or of a Ray started here.

    Raises:
        UserError: what Ray says and what is expected.
    """
    if left and on.startswith(CLIENT) and "version" not in said.lower():
        return
    import ray

    expected = f"expected one with Ray {ray.__version__} and Python {platform.python_version()}, as here"
    raise UserError(f"--on {on}: the cluster cannot be joined ({said[:500]}); {expected}.")


def quiet_ray(local: bool) -> None:
    """What must be set before Ray is imported: no usage reports or chatter; for this machine loopback, and a token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # raylets' logs; a lost node is told by the sweep
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if local:
        os.environ["RAY_AUTH_MODE"] = "token"  # so that other users of this machine cannot reach it either
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: this machine alone


def nodes_of(ray: Any) -> list[Node]:
    """The nodes that are alive."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Node(node["NodeID"], node["NodeManagerAddress"], dict(node["Resources"])) for node in alive]


def on_node(key: str, soft: bool = False) -> Any:
    """Where a task goes: to a node; ``soft``: or to another, if that one is gone or full."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(key, soft=soft)


def asked_nodes(ray: Any, nodes: Sequence[Node], folders: Sequence[Path], plugins: Sequence[str]) -> list[Node]:
    """Nodes with the names of their machines, once each has told that it is like this machine.

    ``folders``, in which cells are run, and ``plugins``, files of methods, must be the same on every node.

    Raises:
        UserError: every node and what is different there.
    """
    asking = ray.remote(num_cpus=0, max_retries=1)(about_node)
    files = {path: sha256_file(Path(path).expanduser()) for path in plugins}
    with ExitStack() as stack:
        marks = [stack.enter_context(tempfile.NamedTemporaryFile(prefix=".shared-", dir=folder)) for folder in folders]
        names = [os.path.realpath(mark.name) for mark in marks]

        def ask(node: Node) -> Any:
            return asking.options(scheduling_strategy=on_node(node.key)).remote(os.getcwd(), names, list(files))

        answers = answers_of(ray, nodes, ask)
    alive = {node.key for node in nodes_of(ray)}
    problems: list[str] = []
    asked: list[Node] = []
    for node in nodes:
        if node.key not in alive:  # lost meanwhile
            continue
        answer = answers[node.key]
        problems += [f"node {node.address}: {problem}" for problem in differences(answer, files)]
        asked += [] if isinstance(answer, str) else [replace(node, host=answer["host"])]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return asked


def answers_of(ray: Any, nodes: Sequence[Node], ask: Callable[[Node], Any]) -> dict[str, dict[str, Any] | str]:
    """What each node told by its key, or why it could not, as half a sentence.

    A node that has just joined is not known to every other yet: it is asked anew.
    """
    until = time.monotonic() + PROBE_SECONDS
    answers: dict[str, dict[str, Any] | str] = {node.key: "it does not answer" for node in nodes}
    asked = {ask(node): node for node in nodes}
    while asked and (left := until - time.monotonic()) > 0:
        for ref in ray.wait(list(asked), timeout=left)[0]:
            node = asked.pop(ref)
            try:
                answers[node.key] = ray.get(ref)
            except ray.exceptions.TaskUnschedulableError:
                if node.key in {one.key for one in nodes_of(ray)}:
                    time.sleep(ASK_SECONDS)
                    asked[ask(node)] = node
            except ray.exceptions.RayError as error:
                last = str(error).strip().splitlines()[-1]
                answers[node.key] = f"clrft cannot be used there ({last}); install it as on this machine"
    return answers


def differences(answer: Mapping[str, Any] | str, files: Mapping[str, str]) -> list[str]:
    """Sentences about what is different on a node."""
    if isinstance(answer, str):
        return [f"{answer}."]
    own = {**versions(SAME), CODE: source_hash()[:12]}
    problems = [
        f"{name} is {answer['versions'].get(name)} there and {version} here; expected the same everywhere (install "
        "with -c constraints.txt)."
        for name, version in own.items()
        if answer["versions"].get(name) != version
    ]
    if not answer["directory"]:
        problems.append(f"it has no folder {os.getcwd()}; start the sweep in a folder that every node has.")
    problems += [
        f"it does not see what is written to {Path(mark).parent} here; expected a folder that every node shares "
        "(run.output=…)."
        for mark in answer["unseen"]
    ]
    problems += [
        f"{path} is {'missing' if not digest else 'another file'} there; expected the plugin as it is here."
        for path, digest in answer["plugins"].items()
        if digest != files[path]
    ]
    return problems
