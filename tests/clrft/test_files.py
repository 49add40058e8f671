"""Files appear whole or not at all, and names stay in their folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clrft.utils.files import (
    check_writable,
    clean_partials,
    config_root,
    read_json,
    safe_name,
    sha256_file,
    whole_folder,
    write_json_atomic,
)
from task_streams.errors import UserError
from tests.processes import ended_process


def test_json_comes_back_as_it_was_written_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    write_json_atomic(path, {"schema": 1, "value": [0.5, None], "name": "σ̂"})
    with pytest.raises(ValueError):  # which leaves the old file
        write_json_atomic(path, {"schema": 1, "value": float("nan")})
    assert read_json(path, schema=1) == {"schema": 1, "value": [0.5, None], "name": "σ̂"}
    assert os.listdir(tmp_path) == ["matrix.json"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"schema": 2}', "schema 2; expected 1"),
        ("[1]", "expected an object"),
        ('{"schema": 1', "damaged"),
        (None, "No such file"),
    ],
)
def test_a_wrong_json_is_named_with_what_was_expected(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "metrics.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        read_json(path, schema=1)
    assert str(path) in str(caught.value)


def test_a_folder_appears_only_when_its_block_ends_well_and_is_never_replaced(tmp_path: Path) -> None:
    final = tmp_path / "task_01"
    with whole_folder(final) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "weights").write_bytes(b"abc")
        assert not final.exists()
        assert partial.parent == tmp_path
    with pytest.raises(UserError, match="exists already"), whole_folder(final):
        pass
    assert (final / "deep" / "weights").read_bytes() == b"abc"
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "task_02") as partial:
        (partial / "weights").write_bytes(b"abc")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["task_01"]


def test_a_killed_process_leaves_a_partial_that_is_cleaned(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from clrft.utils.files import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'weights').write_bytes(b'abc'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "task_01")], cwd=root, check=False)
    assert done.returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".task_01.partial-")
    assert clean_partials(tmp_path) == [left]
    assert os.listdir(tmp_path) == []


def test_cleaning_spares_live_processes_other_files_and_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    runs = tmp_path / "runs"
    runs.mkdir()
    dead, link = (f".{name}.partial-{ended_process()}" for name in ("matrix.json", "task_01"))
    (runs / link).symlink_to(tmp_path / "outside")
    kept = [f".task_02.partial-{os.getpid()}", ".hidden", "task_01"]
    for name in [dead, *kept]:
        (runs / name).touch()
    assert clean_partials(runs) == [dead, link]
    assert sorted(os.listdir(runs)) == sorted(kept)
    assert os.listdir(tmp_path / "outside") == ["precious"]


def test_a_writable_folder_is_made_and_stays_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "runs")
    assert os.listdir(tmp_path / "new" / "runs") == []


@pytest.mark.parametrize("below", ["", "runs", "deep/runs", "/proc/clrft"])  # the last: read-only, even for root
def test_a_folder_at_or_under_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="can't write to the folder"):
        check_writable(tmp_path / "taken" / below)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a\0b", "a\n", "-rf", "x" * 201]
)
def test_a_name_that_could_leave_its_folder_is_refused_and_a_plain_one_is_not(name: str) -> None:
    with pytest.raises(UserError, match="can't name a file or folder"):
        safe_name(name)
    for plain in ("digits_cil-rapo-1993", "a", "model=qwen,lr=1e-4"):
        assert safe_name(plain) == plain


def test_hash_of_a_file_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_the_shipped_configs_are_found() -> None:
    assert (config_root() / "sweeps").is_dir()
