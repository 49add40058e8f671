"""Files appear whole or not at all, names and archives stay in their folder, and what records hold is checked."""

import csv
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from clrft.analysis.outputs import ENDINGS, write_outputs
from clrft.analysis.render import csv_text
from clrft.cli.main import main
from clrft.config import records
from clrft.config.records import Drift, Manifest, Record, Stage, Step, check_fields, read_rows, read_stage, read_steps
from clrft.runner.checkpoint import write_rows
from clrft.utils import archives, files
from clrft.utils.archives import check_room, tar_members, unpack
from clrft.utils.files import (
    clean_partials,
    read_json,
    safe_name,
    sha256_file,
    whole_file,
    whole_folder,
    write_json_atomic,
)
from clrft.utils.progress import Silent
from methods.training.fit import step_row
from task_streams.errors import UserError
from tests.processes import ended_process

PACKED = {"set/train/a.txt": b"a" * 10, "set/train/ü b.txt": b"b" * 3000, "set/empty.txt": b""}
STAGE = {"task": 1, "name": "t", "accuracy": {"1": 1.0}}
RUN = {"stream": "s", "method": "m", "seed": 1}


def test_json_comes_back_as_it_was_written_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    write_json_atomic(path, {"schema": 1, "value": [0.5, None], "name": "σ̂"})
    with pytest.raises(ValueError):  # which leaves the old file
        write_json_atomic(path, {"schema": 1, "value": float("nan")})
    assert read_json(path, schema=1) == {"schema": 1, "value": [0.5, None], "name": "σ̂"}
    assert os.listdir(tmp_path) == ["matrix.json"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"schema": 2}', "has schema 2; expected 1"), ("[1]", "expected an object"), ('{"schema": 1', "damaged")],
)
def test_a_wrong_or_missing_json_is_named_with_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "metrics.json"
    for reason in ("No such file", expected):
        with pytest.raises(UserError, match=reason) as caught:
            read_json(path, schema=1)
        assert str(path) in str(caught.value)
        path.write_text(text)


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


def test_files_that_a_library_makes_for_one_user_alone_are_for_all_whom_the_umask_lets(tmp_path: Path) -> None:
    os.umask(umask := os.umask(0))
    with whole_folder(tmp_path / "weights") as folder:
        save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
        assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o600
    with whole_file(tmp_path / "one.safetensors") as beside:
        save_file({"weight": torch.zeros(1)}, beside)
    for path in (tmp_path / "weights" / "model.safetensors", tmp_path / "one.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_texts_that_a_spreadsheet_takes_for_formulas_are_quoted_and_numbers_are_not() -> None:
    cells = ["=1+1", "+a", "-x", "@sum", "\ta", "-0.5", "+1e-3", "-inf", "-", "a=b", -0.5, None]
    said = csv_text(["-name"], [[cell] for cell in cells])
    assert said.splitlines()[0] == "'-name"
    assert list(csv.reader(io.StringIO(said)))[1:] == [
        ["'=1+1"], ["'+a"], ["'-x"], ["'@sum"], ["'\ta"], ["-0.5"], ["+1e-3"], ["-inf"], ["-"], ["a=b"], ["-0.5"], [""]
    ]  # fmt: skip


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
    (runs := tmp_path / "runs").mkdir()
    dead, link = (f".{name}.partial-{ended_process()}" for name in ("matrix.json", "task_01"))
    (runs / link).symlink_to(tmp_path / "outside")
    kept = [f".task_02.partial-{os.getpid()}", ".hidden", "task_01"]
    for name in [dead, *kept]:
        (runs / name).touch()
    assert clean_partials(runs) == [dead, link]
    assert sorted(os.listdir(runs)) == sorted(kept)
    assert os.listdir(tmp_path / "outside") == ["precious"]


@pytest.mark.parametrize("below", ["", "runs", "deep/runs", "/proc/clrft"])  # the last: read-only, even for root
def test_a_folder_that_can_be_written_to_is_made_and_one_at_or_under_a_file_refused(tmp_path: Path, below: str) -> None:
    files.check_writable(tmp_path / "new" / "runs")
    assert os.listdir(tmp_path / "new" / "runs") == []
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="can't write to the folder"):
        files.check_writable(tmp_path / "taken" / below)


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


def picture() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], [1, 3])
    return figure


def test_files_come_in_order_and_replace_links_instead_of_following_them(tmp_path: Path) -> None:
    (other := tmp_path / "other").write_text("somebody's", encoding="utf-8")
    (out := tmp_path / "out").mkdir()
    for name in ("table.md", "curves.png", "curves.pdf"):
        (out / name).symlink_to(other)
    paths = write_outputs(out, {"table.md": "| a |\n"}, [("curves", picture())], ENDINGS)
    assert [path.name for path in paths] == ["table.md", "curves.png", "curves.pdf"]
    assert other.read_text(encoding="utf-8") == "somebody's"
    assert [path.read_bytes()[:4] for path in paths] == [b"| a ", b"\x89PNG", b"%PDF"]
    assert sorted(path.name for path in out.iterdir()) == ["curves.pdf", "curves.png", "table.md"]


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    first, second = (
        [path.read_bytes() for path in write_outputs(tmp_path / name, {}, [("curves", picture())], ENDINGS)]
        for name in "ab"
    )
    assert first == second and b"CreationDate" not in first[1]


def test_a_picture_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    (path,) = write_outputs(tmp_path, {}, [("curves", picture())])
    before = path.read_bytes()

    class Broken(Figure):
        def savefig(self, file: Path, **_: object) -> None:
            file.write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_outputs(tmp_path, {}, [("curves", Broken())])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_rows_that_a_training_writes_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [step_row(step, {"loss": 0.5, "rewards/accuracy/mean": 1.0, "kl": -1e-9}) for step in (1, 2, 3)]
    path = tmp_path / "steps.jsonl"
    write_rows(path, rows)
    assert list(read_rows(path, Step)) == rows
    monkeypatch.setattr(records, "read_rows", None)  # what takes a closer look
    assert read_steps(path) == rows


DEEP = "[" * 5000
ROWS = {"-1.0": "[]", "1.5": "{}", "true": '{"step": 1, "loss": "x"}', '"1"': '{"step": 1, "loss": NaN}', "null": DEEP}


@pytest.mark.parametrize(("step", "row"), ROWS.items())
def test_a_row_without_a_whole_step_or_with_no_numbers_is_refused(step: str, row: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(f'{{"step": 1.0, "loss": null}}\n{{"step": {step}, "loss": 0.5}}\n')
    with pytest.raises(UserError, match=r"steps.jsonl, line 2: step is .*; expected a whole number"):
        read_steps(path)
    path.write_text(row + "\n")
    with pytest.raises(UserError, match=r"steps\.jsonl"):
        read_steps(path)


@pytest.mark.parametrize("fields", [{"accuracy": {"x": 1}}, {"correct": {"1": 5}, "total": {"1": 4}}, {"seconds": [1]}])
def test_a_stage_of_other_types_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "metrics.json", {"schema": 1, **STAGE})
    assert read_stage(tmp_path / "metrics.json", 1)["task"] == 1
    write_json_atomic(tmp_path / "metrics.json", {"schema": 1, **STAGE, **fields})
    with pytest.raises(UserError, match=r"metrics\.json"):
        read_stage(tmp_path / "metrics.json", 1)


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (Stage, STAGE | {"more": 1, "pooled": None}, None),
        (Stage, {"task": True, "name": 5}, "task name accuracy"),
        (Stage, STAGE | {"drift": {"kl": None}, "cost": {"a": {"b": "c"}}, "probe": {"a": 2}}, "probe drift cost"),
        (Drift, {"kl": None, "undefined": {"kl": "no anchor"}, "jsd": 1}, None),
        (Manifest, RUN, None),
        (Manifest, RUN | {"seed": 2**60, "feed": "text", "tasks": [1]}, "seed feed tasks"),
    ],
)
def test_every_wrong_or_missing_field_of_a_record_is_named(kind: type[Record], values: Any, problem: Any) -> None:
    if problem is None:
        return check_fields("file", values, kind)
    with pytest.raises(UserError) as caught:
        check_fields("file", values, kind)
    assert {one.split()[1] for one in caught.value.problems} == set(problem.split())
    assert all(one.startswith("file: ") and "; expected " in one for one in caught.value.problems)


def packed(path: Path, *members: tuple[str, bytes], last: bytes = tarfile.REGTYPE, mode: int = 0) -> Path:
    """A tar or zip as its suffix says; ``last`` (a link to /etc/passwd) and ``mode`` are of the last member."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for number, (name, data) in enumerate(members, start=1):
                entry = zipfile.ZipInfo(name)
                entry.external_attr = (mode if number == len(members) else 0) << 16
                zipped.writestr(entry, data, zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for number, (name, data) in enumerate(members, start=1):
            info = tarfile.TarInfo(name)
            if number == len(members):
                info.type, info.linkname = last, "" if last == tarfile.REGTYPE else "/etc/passwd"
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def refusal(archive: Path) -> str:
    """What is said about an archive of which nothing may be unpacked."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        unpack(archive, archive.parent / "out" / "set", Silent())
    left = [path for path in sorted(archive.parent.rglob("*")) if path not in before]
    assert left in ([], [archive.parent / "out"])
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_archives_of_every_kind_become_a_folder(tmp_path: Path, suffix: str) -> None:
    archive = packed(tmp_path / f"data.{suffix}", *PACKED.items())
    assert main(["data", "unpack", str(archive), str(tmp_path / "new" / "out")]) == 0
    out = tmp_path / "new" / "out"
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == PACKED
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["../evil.txt", "set/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_names_that_lead_out_are_refused_and_all_named(tmp_path: Path, name: str) -> None:
    members = (("good.txt", b"x"), (name, b"x"), ("../second.txt", b"x"))
    for archive in (packed(tmp_path / "a.tar.gz", *members), packed(tmp_path / "a.zip", *members)):
        said = refusal(archive)
        assert "2 members are refused, nothing was unpacked" in said
        assert f"{name!r} (a" in said
        assert "'../second.txt' (a path that leads upwards)" in said
        archive.unlink()


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "zip"])
def test_a_cut_off_archive_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    noise = bytes(i * i % 251 for i in range(60_000))
    archive = packed(tmp_path / f"a.{suffix}", ("set/a", noise), ("set/b", noise))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    said = refusal(archive)
    assert "damaged" in said or "cut off" in said


def test_a_member_whose_bytes_changed_and_what_is_no_archive_or_not_there_are_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as stored:
        stored.writestr("set/a", b"0123456789")
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"0123x56789"))
    assert "is damaged or cannot be unpacked (Bad CRC-32 for file 'set/a')" in refusal(archive)
    page = tmp_path / "page.tar.gz"
    page.write_bytes(b"<html>404</html>")
    assert "is neither a tar (plain, gz, bz2 or xz) nor a zip archive" in refusal(page)
    assert "can't read" in refusal(tmp_path / "none.zip")
    assert "an archive without members" in refusal(packed(tmp_path / "empty.zip"))


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])  # of GNU and PAX: a name, a link, attributes of one or all
@pytest.mark.parametrize("first", [True, False])
def test_a_long_name_of_a_member_is_bounded_before_it_is_read(tmp_path: Path, kind: bytes, first: bool) -> None:
    head = tarfile.TarInfo("long")
    head.type, head.size = kind, 2**33
    before = b"" if first else packed(tmp_path / "a.tar", ("set/a", b"x")).read_bytes()[:1024]
    archive = tmp_path / "long.tar"
    archive.write_bytes(before + head.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert "name or attributes of 8589934592 bytes; expected 65536 at most; refused" in refusal(archive)


def test_names_too_long_for_a_disk_are_refused_and_a_pipe_is_no_archive(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", *((f"{'a' * 4095}{number:02d}", b"x") for number in range(12)))
    said = refusal(archive)
    assert said.startswith(f"{archive}: 12 members are refused, nothing was unpacked: 'aaaa")
    assert "… (a name of 4097 characters)" in said and said.endswith(" and 2 more") and len(said) < 2000
    os.mkfifo(tmp_path / "pipe.tar")
    assert "(a pipe; expected a regular file)" in refusal(tmp_path / "pipe.tar")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_members_of_a_tar_are_not_kept_while_it_is_gone_through(tmp_path: Path, suffix: str) -> None:
    archive = packed(tmp_path / f"data.{suffix}", *((f"set/{i}.txt", b"x" * i) for i in range(50)))
    with tarfile.open(archive) as opened:
        found = [(one.name, len(opened.members)) for one in tar_members(opened)]  # type: ignore[attr-defined]
    assert found == [(f"set/{i}.txt", 0) for i in range(50)]


@pytest.mark.parametrize(
    ("kinds", "fault"),
    [((tarfile.SYMTYPE, tarfile.LNKTYPE), "a link"), ((tarfile.CHRTYPE, tarfile.FIFOTYPE), "a device or pipe")],
)
def test_links_devices_and_encrypted_members_are_refused(tmp_path: Path, kinds: tuple[bytes, ...], fault: str) -> None:
    for kind in kinds:
        assert f"'set/x' ({fault})" in refusal(packed(tmp_path / "a.tar", ("set/x", b""), last=kind))
    archive = packed(tmp_path / "a.zip", ("set/x", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    assert "'set/x' (a link)" in refusal(archive)
    data = bytearray(packed(archive, ("set/x", b"secret")).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(data)
    assert "'set/x' (encrypted)" in refusal(archive)


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_a_bomb_too_many_members_and_a_full_disk_are_refused_before_anything_is_written(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    assert "refused as a decompression bomb" in refusal(packed(tmp_path / f"a.{suffix}", ("zeros", bytes(10_001))))
    assert "more than 3 members" in refusal(packed(tmp_path / f"a.{suffix}", *((f"{i}", b"") for i in range(4))))
    with pytest.raises(UserError, match=r"bytes to unpack and .* to spare, but .* bytes are free there"):
        check_room(tmp_path, 2**62)


def test_a_folder_that_exists_gets_the_one_top_folder_of_an_archive_and_none_of_several_entries(tmp_path: Path) -> None:
    (tmp_path / "data" / "other").mkdir(parents=True)
    archive = packed(tmp_path / "a.zip", ("set/one.txt", b"1"), ("set/b/two.txt", b"2"))
    archive = archive.rename(tmp_path / "a.tar")  # the kind is told by the bytes, not by the name
    unpack(archive, tmp_path / "data", Silent())
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["other", "set"]
    assert (tmp_path / "data" / "set" / "b" / "two.txt").read_bytes() == b"2"
    with pytest.raises(UserError, match="set exists already; expected nothing of that name"):
        unpack(archive, tmp_path / "data", Silent())
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="has 2 entries; expected a new folder"):
        unpack(packed(tmp_path / "b.zip", ("one.txt", b"1"), ("two.txt", b"2")), tmp_path / "out", Silent())
    assert list((tmp_path / "out").iterdir()) == []
