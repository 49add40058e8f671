"""What names and answers hold reaches the terminal as text: no escape code of theirs, all of the suite's own styles."""

import io
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from clrft.cli.main import main
from clrft.utils.console import SafeConsole
from clrft.utils.progress import Bars, say

EVIL = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\x7f"
SHOWN = "a\\u001b[2Jb\\u009b31mc\\u202ed\\u2066e\\u007f"


def test_escape_codes_in_texts_tables_and_bars_are_shown_and_styles_stay() -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, width=200, color_system="standard")
    say(console, EVIL)
    table = Table()
    table.add_column(Text(EVIL))
    table.add_row(Text(EVIL))
    console.print(table)
    console.print("[bold red]error[/bold red]")
    with Bars(console) as bars:
        bars.begin("cell", EVIL, 3)
    said = out.getvalue()
    assert EVIL not in said and "\x1b[2J" not in said and not set("\x9b\u202e\u2066\x7f") & set(said)
    assert said.startswith(f"{SHOWN}\n") and "\x1b[1;31merror\x1b[0m" in said


def test_a_refused_name_is_printed_without_its_escape_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text(
        f"stream: {{name: folder_cil, root: {tmp_path / 'data'}, tasks: 1, classes_per_task: 1}}\n"
    )
    (tmp_path / "data" / EVIL).mkdir(parents=True)
    for number in range(4):
        (tmp_path / "data" / EVIL / f"{number}.png").write_text("damaged")
    assert main(["data", "check", str(tmp_path / "s.yaml"), f"run.output={tmp_path / 'runs'}"]) == 2
    caught = capsys.readouterr()
    assert SHOWN in caught.err + caught.out and not set("\x1b\x9b\u202e") & set(caught.err + caught.out)
