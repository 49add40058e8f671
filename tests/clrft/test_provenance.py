"""Provenance tells versions, code and hardware, and nothing private."""

import getpass
import json
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from clrft.runs.provenance import code_identity, hardware, source_hash, versions


def committed(folder: Path) -> None:
    """Put all that is in a folder into a repository of its own."""
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init"], ["add", "."], ["commit", "-m", "all"]):
        subprocess.run([*command, *words], check=True, capture_output=True)


def a_package(root: Path, text: str = "x = 1\n") -> None:
    (root / "clrft").mkdir(parents=True)
    (root / "clrft" / "a.py").write_text(text)


def test_versions_name_python_and_the_packages() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert re.match(r"1\.16\.", found["trl"])


def test_code_in_a_clean_checkout_has_a_commit_and_is_not_dirty_until_it_changes(tmp_path: Path) -> None:
    a_package(tmp_path)
    committed(tmp_path)
    clean = code_identity(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (tmp_path / "clrft" / "a.py").write_text("x = 2\n")
    changed = code_identity(tmp_path)
    assert changed["commit"] == clean["commit"]
    assert changed["dirty"] is True
    assert changed["source_sha256"] != clean["source_sha256"]


def test_code_outside_a_checkout_has_a_source_hash_only(tmp_path: Path) -> None:
    a_package(tmp_path)
    found = code_identity(tmp_path)
    assert (found["commit"], found["dirty"]) == (None, None)
    assert re.fullmatch("[0-9a-f]{64}", found["source_sha256"])


def test_a_folder_inside_somebody_elses_checkout_does_not_take_their_commit(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    committed(tmp_path)
    a_package(tmp_path / "site-packages")
    assert code_identity(tmp_path / "site-packages")["commit"] is None


def test_the_same_sources_elsewhere_have_the_same_hash_and_a_renamed_file_another(tmp_path: Path) -> None:
    for place in ("one", "two"):
        a_package(tmp_path / place)
    assert source_hash(tmp_path / "one") == source_hash(tmp_path / "two")
    (tmp_path / "two" / "clrft" / "a.py").rename(tmp_path / "two" / "clrft" / "b.py")
    assert source_hash(tmp_path / "one") != source_hash(tmp_path / "two")


def test_hardware_is_plain_json_without_names_or_paths() -> None:
    text = json.dumps(hardware())
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert "/home" not in text
    assert hardware()["cores"] >= 1
    assert hardware()["ram_gb"] > 0.1


def test_peak_memory_grows_with_what_is_held_and_is_forgotten_once_that_is_given_back() -> None:
    # In a process of its own, where the peak so far is low; it must not start at this process's size.
    # 2**20 bytes are one MB. torch is imported after the first look: it takes more than all the rest.
    program = (
        "from clrft.runs.provenance import forget_peaks, peak_memory_mb; before = peak_memory_mb()\n"
        "held = bytearray(b'x') * (200 * 2**20); high = peak_memory_mb(); del held\n"
        "print(before, high - before); import torch\n"
        "held = bytearray(b'x') * (200 * 2**20); high = peak_memory_mb(); del held\n"
        "forget_peaks(); print(high - peak_memory_mb())"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    before, grown, forgotten = map(float, done.stdout.split())
    assert before < 150
    assert 190 < grown < 260
    assert forgotten > 150 or sys.platform != "linux"  # others cannot forget a process's peak
