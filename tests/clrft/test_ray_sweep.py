"""Sweeps on a real Ray: a cluster of two nodes on this machine of which one is killed, and a Ray of this machine."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from clrft.cli.main import main
from clrft.config.sweeps import load_sweep
from clrft.runs.layout import stage_folder
from clrft.sweep import ray_cluster
from clrft.sweep.executors import ExecutorChoice, check_executor
from clrft.sweep.ray_executor import HEAD, board_of
from clrft.sweep.run_sweep import run_sweep
from clrft.utils.locks import lock_path
from clrft.utils.process_identity import lives
from clrft.utils.progress import Bars
from task_streams.errors import UserError
from tests.clrft.clusters import Nodes, cluster_of, shadowed
from tests.clrft.counted import COUNTED, Lab, until
from tests.processes import free_port

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (the extra 'ray')")


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def nodes(executor: Path) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNTED_IN", str(executor))  # nodes have it from here
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        with cluster_of(1, port=free_port()) as made:
            yield made


def lab_in(folder: Path, seeds: list[int]) -> Lab:
    plugin = folder / "counted.py"
    plugin.write_text(COUNTED)
    (folder / "updates").unlink(missing_ok=True)  # of a lab before
    return Lab(folder, plugin, seeds)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a sweep says that is refused."""
    assert main(words) == 2
    return " ".join(capsys.readouterr().err.split())


def test_what_cannot_run_a_sweep_is_refused_before_any_work(
    nodes: Nodes, executor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = lab_in(executor, [1, 2, 3])
    sweep = ["sweep", *one.words, "--on"]
    assert "--on: got 'rai', expected ray (on this machine), ray://HOST:PORT" in refused([*sweep, "rai"], capsys)
    ray_cluster.check_address(nodes.cluster.address)  # which answers
    closed = f"127.0.0.1:{free_port()}"
    assert f"--on: nothing answers at {closed} (Connection refused)" in refused([*sweep, f"ray://{closed}"], capsys)
    said = refused([*sweep, nodes.client, "--threads", "3"], capsys)
    assert "digits_cil-sft+counted-3: asks for CPUs: 3, GPUs: 0, 0." in said and "no node has as much (CPUs: 1," in said
    path = os.pathsep.join([shadowed(executor / "shadow", "trl", "9.9.9"), os.environ["PYTHONPATH"]])
    other = nodes.cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
    try:
        said = refused([*sweep, nodes.client], capsys)
    finally:
        nodes.kill(other)
    assert "node 127.0.0.1: trl is 9.9.9 there and 1.16" in said and "torch" not in said
    assert not one.runs.exists() or list(one.runs.iterdir()) == []
    assert one.updates() == []


def test_by_ray_client_a_killed_node_costs_its_cell_the_task_at_hand_and_nothing_else(
    nodes: Nodes, executor: Path
) -> None:
    one = lab_in(executor, [1, 2, 3])
    at = ExecutorChoice(nodes.client)
    check_executor(at)  # as the command does, in a process of its own
    second = nodes.cluster.add_node(num_cpus=1)
    holds = {seed: one.mark("hold", seed, 2, 1) for seed in (1, 2, 3)}
    for hold in holds.values():
        hold.write_text("")
    lost: list[int] = []

    def kill() -> None:
        """Kill the second node once both stand in their second task, and let all go on."""
        try:
            until(lambda: len({row[0] for row in one.updates() if row[1:3] == (2, 1)}) == 2)
            at_work = {row[3]: row[0] for row in one.updates() if row[1:3] == (2, 1)}
            nodes.kill(second)
            until(lambda: not all(lives(process) for process in at_work), 30)
            lost.extend(seed for process, seed in at_work.items() if not lives(process))
        finally:
            for hold in holds.values():
                hold.unlink()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    own = {"run": {"output": str(executor / "runs"), "plugins": [str(one.plugin)]}}
    console = Console(file=io.StringIO())
    with Bars(console) as bars:
        assert run_sweep(load_sweep(one.words[0], own), None, bars, at) == []
    killer.join()
    (seed,) = lost
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Ray: 2 nodes, 2 CPUs" in said and f"digits_cil-sft+counted-{seed}  task 2/2 test" in said
    assert f"digits_cil-sft+counted-{seed}: its node was lost; it goes on from what is on disk" in said
    assert f"digits_cil-sft+counted-{seed}: going on after stage 1" in said
    made = Counter(row[:3] for row in one.updates())
    assert made.pop((seed, 2, 1)) == 2  # the update at hand
    assert sorted(made.elements()) == sorted(set(product((1, 2, 3), (1, 2), (1, 2))) - {(seed, 2, 1)})
    assert not any(lock_path(one.cell(each)).exists() for each in (1, 2, 3))
    alone = ["run", "stream=digits_cil", "method=sft+counted", f"seed={seed}", "--plugin", str(one.plugin)]
    alone += ["stream.tasks=2", "stream.shots=4", "stream.test_per_class=1", "train.updates=2", "run.mlflow=false"]
    alone += ["train.prompts_per_update=4", "evaluate.probe=0", f"run.output={executor / 'alone'}"]
    assert main(alone) == 0
    whole = executor / "alone" / "single" / one.cell(seed).name
    assert json.loads((one.cell(seed) / "matrix.json").read_text()) == json.loads((whole / "matrix.json").read_text())


def test_ray_of_this_machine_is_on_loopback_outlives_a_worker_and_stops_where_it_stands(tmp_path: Path) -> None:
    one = lab_in(tmp_path, [1, 2])
    kill, hold = one.mark("kill", 1, 1, 1), one.mark("hold", 1, 1, 2)
    kill.write_text("")
    hold.write_text("")
    words = [sys.executable, "-m", "clrft", "sweep", *one.words, "--on", "ray", "--jobs", "1"]
    environment = {**os.environ, "COUNTED_IN": str(tmp_path)}
    with (tmp_path / "said").open("wb") as said:
        sweep = subprocess.Popen(words, stdout=said, stderr=said, env=environment, start_new_session=True)
    try:
        one.reaches(1, 1, 1)
        kill.unlink()  # its process has died there; the next one goes on
        one.reaches(1, 1, 2)
        until(lambda: "going on after stage 0" in (tmp_path / "said").read_text())  # it is there a moment later
        family = [psutil.Process(sweep.pid), *psutil.Process(sweep.pid).children(recursive=True)]
        every = [connection for process in family for connection in process.net_connections("tcp")]
        addresses = [connection.laddr.ip for connection in every if connection.status == psutil.CONN_LISTEN]
        assert len(addresses) > 3  # the driver's, the raylet's, the workers'
        assert set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(60) == 130
    finally:
        sweep.kill()
    text = (tmp_path / "said").read_text()
    assert "digits_cil-sft+counted-1: its process died (killed, or out of memory); it goes on" in text
    assert "stopped; finished tasks are kept" in text
    assert {row[0] for row in one.updates()} == {1}  # one at a time
    assert not lock_path(one.cell(1)).exists()
    assert stage_folder(one.cell(1), 0).is_dir() and not stage_folder(one.cell(1), 1).exists()


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side is gone, after what it has sent."""
    with connection, contextlib.suppress(ConnectionResetError):
        connection.settimeout(10.0)
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
            return False
    return True


def test_a_server_that_is_no_ray_is_told_after_the_limit_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "JOIN_SECONDS", 8.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the process that tries to join
    monkeypatch.delenv("RAY_TMPDIR", raising=False)

    def refusal(address: str) -> str:
        with pytest.raises(UserError) as caught:
            check_executor(ExecutorChoice(address))
        return str(caught.value)

    # Ray takes 127.0.0.1 for the machine's own address, at which nothing listens here; 127.0.0.2 it leaves as it is
    place = ("127.0.0.2", 0)
    with socket.create_server(place, backlog=64) as one, socket.create_server(place, backlog=64) as two:
        addresses = ["{}:{}".format(*one.getsockname()), "ray://{}:{}".format(*two.getsockname())]
        with ThreadPoolExecutor() as threads:
            refusals = list(threads.map(refusal, addresses))
        for address, said in zip(addresses, refusals, strict=True):
            assert f"--on {address}: the cluster cannot be joined (no Ray answered there within 8 s); expected" in said
        for server in (one, two):
            server.setblocking(False)
            accepted = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted.append(server.accept()[0])
            assert len(accepted) > 1  # the first is ours, to see whether anything answers; then comes Ray
            assert all(has_ended(connection) for connection in accepted)
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not any(address in words for words in commands for address in addresses)
    assert list(tmp_path.iterdir()) == []


ZOMBIE, VERSION = "psutil.ZombieProcess: PID still exists", "RuntimeError: Version mismatch"


@pytest.mark.parametrize(
    ("ends", "said", "tries", "refused"),
    [
        ([1, 1, 0], ZOMBIE, 3, False),  # a server died at birth, twice
        ([1, 1, 1], ZOMBIE, 3, True),
        ([0], ZOMBIE, 1, False),
        ([1, 0], VERSION, 1, True),  # what will not pass
    ],
)
def test_a_cluster_whose_server_dies_at_birth_is_joined_anew(
    ends: list[int], said: str, tries: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(ends)

    def started(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, left.pop(0), "", said)

    monkeypatch.setattr(ray_cluster.subprocess, "run", started)
    with pytest.raises(UserError, match=said) if refused else contextlib.nullcontext():
        ray_cluster.check_cluster("ray://somewhere:1")
    assert len(ends) - len(left) == tries


@pytest.fixture(scope="module")
def ray(nodes: Nodes) -> Iterator[Any]:
    """Ray, connected to the cluster: for the last tests, as a process joins one cluster at a time."""
    with ray_cluster.connected(nodes.cluster.address) as module:
        yield module


def test_a_node_that_has_just_joined_is_asked_and_its_end_costs_no_news(ray: Any, nodes: Nodes, executor: Path) -> None:
    for turn in range(2):  # where what other nodes know of it decides, one in two goes wrong
        before = {node.key for node in ray_cluster.nodes_of(ray)}
        joined = nodes.cluster.add_node(num_cpus=1)
        try:
            (new,) = [node for node in ray_cluster.nodes_of(ray) if node.key not in before]
            (asked,) = ray_cluster.asked_nodes(ray, [new], [executor], [])
            board = board_of(ray)
            ray.get(board.tell.remote(turn, ("say", ("before",))))
        finally:
            nodes.kill(joined)
        assert asked.key == new.key and asked.host == socket.gethostname()
        ray.get(board.tell.remote(turn, ("say", ("after",))), timeout=60)
        assert [words for _, (_, words) in ray.get(board.take.remote())] == [("before",), ("after",)]
        ray.kill(board)


def test_a_board_whose_process_dies_is_told_all_that_comes_then(ray: Any) -> None:
    def process_of(actor: Any) -> int:
        return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=60))

    board = board_of(ray)
    before = process_of(board)
    os.kill(before, signal.SIGKILL)
    ray.get(board.tell.remote(1, ("say", ("after",))), timeout=60)
    assert ray.get(board.take.remote()) == [(1, ("say", ("after",)))]
    assert process_of(board) != before
    ray.kill(board)


def test_a_node_that_ray_does_not_know_everywhere_yet_is_asked_anew_while_it_lives(ray: Any) -> None:
    nobody = "0" * 56
    head = next(node for node in ray_cluster.nodes_of(ray) if HEAD in node.resources)
    told = ray.remote(num_cpus=0)(lambda: {"host": "here"})
    asked: list[str] = []

    def ask(node: ray_cluster.Node) -> Any:
        """Ask for the node; the first time as if it were not known."""
        asked.append(node.key)
        where = ray_cluster.on_node(nobody if len(asked) == 1 else node.key)
        return told.options(scheduling_strategy=where).remote()

    assert ray_cluster.answers_of(ray, [head], ask) == {head.key: {"host": "here"}}
    assert asked == [head.key, head.key]
    gone = ray_cluster.Node(nobody, "127.0.0.1", {})
    assert ray_cluster.answers_of(ray, [gone], ask) == {nobody: "it does not answer"}
    assert asked[2:] == [nobody]
