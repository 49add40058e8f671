"""The words of every command: what ``clrft --help`` shows, and which function of ``clrft.cli`` a command is."""

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  clrft run stream=digits_cil method=rapo seed=1993
  clrft run --from runs/single/digits_cil-sft-1993@task3 method=rapo
  clrft plan quickstart
  clrft sweep quickstart
  clrft status quickstart
  clrft compare runs/quickstart
  clrft report runs/quickstart
  clrft analyze rewards runs/quickstart
  clrft analyze kinds runs/quickstart
  clrft analyze costs runs/quickstart
  clrft show stream=digits_cil method=rapo train.learning_rate=3e-5
  clrft data check digits_cil
  clrft method check my_method.py
  clrft list methods"""

LISTS = ("configs", "methods", "metrics", "models", "prompts", "seeds", "shapers", "streams", "sweeps")  # of clrft list

# arguments that several commands have
WORDS: Any = {"nargs": "*", "metavar": "KEY=VALUE", "help": "e.g. train.learning_rate=1e-4; clrft show lists all"}
OWN = "Python file with a method of your own; code in it runs"
PLUGIN: Any = {"action": "append", "default": [], "metavar": "FILE", "help": OWN}
POINT = "go on from a finished task of another run, e.g. runs/single/digits_cil-sft-1993@task3"
START: Any = {"metavar": "RUN@taskK", "help": POINT}
SWEEP: Any = {"help": "a sweep of clrft list sweeps, or a path to a YAML file"}
RUNS: Any = {"nargs": "+", "metavar": "RUNS", "help": "run folders or sweep folders"}
DIFFERING = "let runs differ in this, e.g. versions,train.updates or all; every output then says so"
MIX: Any = {"action": "append", "default": [], "metavar": "NAME,…", "help": DIFFERING}


class Version(argparse.Action):
    """``--version``; the version is looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        parser.exit(message=f"clrft {version('clrft')} ({Path(__file__).parents[1]})\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, in the order in which ``clrft --help`` shows them."""
    parser = argparse.ArgumentParser(
        prog="clrft",
        description="Continual fine-tuning of vision-language models: streams, methods, forgetting.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and where it is installed")
    # whether several processes can work on it; what it is called now, where it is called by its former name
    parser.set_defaults(several=False, former=())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_work(commands)
    add_results(commands)
    add_own(commands)

    ui = add(commands, "ui", "open MLflow on this machine (loopback only)")
    ui.add_argument("--output", default="runs", help="folder of all runs (default: runs)")
    ui.add_argument("--port", type=int, default=5000)

    base = add(commands, "base", "names the script that rebuilds and checks the embedded model")
    base.add_argument("action", choices=("build", "check"), help="build: pretrain it anew; check: measure a folder")
    folder = "folder of the model (build: new or empty, default rebuilt_base; check: default the shipped one)"
    base.add_argument("--out", help=folder)
    base.add_argument("--seed", type=int, help="seed of the pretraining (default: the shipped model's)")
    return parser


def add_work(commands: Any) -> None:
    """What runs cells, or tells how it will go or goes."""
    run = add(commands, "run", "one stream, one method, one class order", several=True)
    fork = commands.add_parser("fork", help="the former name of run --from")
    fork.set_defaults(command=("run", "run_command"), former=("fork", "run --from"), several=True, resume=None)
    fork.add_argument("start", **START)
    for one in (run, fork):
        one.add_argument("words", **WORDS)
        one.add_argument("--plugin", **PLUGIN)
    run.add_argument("--resume", metavar="DIR", help="go on with the run in this folder, with its own settings")
    run.add_argument("--from", dest="start", **START)

    sweep = add(commands, "sweep", "streams x methods x class orders; skips what is done")
    sweep.add_argument("name", **SWEEP)
    sweep.add_argument("words", **WORDS)
    sweep.add_argument("--plugin", **PLUGIN)
    sweep.add_argument("--jobs", type=int, help="runs at a time (default: one per core or GPU; on Ray no limit)")
    sweep.add_argument("--threads", type=int, default=0, help="CPU threads of a run (default: 1, or shared on GPUs)")
    ray = "run the cells as tasks of Ray: ray = on this machine, else the address of a cluster (docs/clusters.md)"
    sweep.add_argument("--on", default="", metavar="ray|ray://HOST:PORT", help=ray)

    plan = add(commands, "plan", "tokens, operations, memory, hours and disk of a sweep, before it runs")
    plan.add_argument("name", **SWEEP)
    plan.add_argument("words", **WORDS)
    hardware = "this (measured now; default), a device and how many, e.g. h100x8 or rtx4090, or a YAML file"
    plan.add_argument("--hardware", default="this", metavar="NAME", help=hardware)
    plan.add_argument("--jobs", type=int, help="runs at a time (default: as clrft sweep, or one per device)")
    plan.add_argument("--devices-per-cell", type=int, default=1, metavar="N", help="processes that share each run")
    plan.add_argument("--split", action="store_true", help="weights are split among them (FSDP), not whole in each")
    plan.add_argument("--completion-tokens", type=int, metavar="N", help="length of a completion, where not measured")
    plan.add_argument("--plugin", **PLUGIN)
    plan.add_argument("--json", action="store_true", help="as JSON")

    status = add(commands, "status", "what of a sweep is done, running, failed, waiting; the time left")
    status.add_argument("words", nargs="*", metavar="SWEEP|FOLDER|KEY=VALUE", help="sweeps, with their words; folders")
    status.add_argument("--plugin", **PLUGIN)
    status.add_argument("--json", action="store_true", help="as JSON")


def add_results(commands: Any) -> None:
    """What reads runs; each analysis is a command of its own too, as it was called before."""
    compare = add(commands, "compare", "methods side by side: tables, matrices, curves")
    report = add(commands, "report", "a page for the browser: who forgets less, how sure, and why")
    for one in (compare, report):
        one.add_argument("paths", **RUNS)
        one.add_argument("--baseline", help="method that the others are paired with")
        one.add_argument("--mix", **MIX)
    others = "also a table in the columns of others, e.g. coin or pilot,gem; clrft list metrics names them"
    compare.add_argument("--metrics", action="append", default=[], metavar="NAME,…", help=others)
    compare.add_argument("-o", "--output", help="folder for tables and pictures (default: <first>/comparison)")
    report.add_argument("-o", "--output", help="folder of the page, its tables and figures (default: <first>/report)")

    analyze = "what runs show of rewards, forgetting, costs, drift; published figures"
    actions = commands.add_parser("analyze", help=analyze).add_subparsers(required=True, metavar="WHAT")
    for name, mix, text in (
        ("rewards", False, "what rewards were made of, by task, and what shapers reranked"),
        ("kinds", False, "what kind of forgetting: by list or weights, what was answered"),
        ("costs", True, "tokens, operations, hours and memory beside quality"),
        ("drift", True, "how far policies moved, and whether that goes with forgetting"),
        ("ledger", False, "figures published with RaPO, beside runs of the same setting"),
    ):
        runs, output = RUNS, "folder for tables and pictures (default: <first>/comparison)"
        if name == "ledger":
            runs = {**RUNS, "nargs": "*", "help": "run folders or sweep folders; none: the figures alone"}
            output = "folder for ledger.md and ledger.csv (default: print only)"
        former = commands.add_parser(name)
        former.set_defaults(command=("analyze", f"{name}_command"), former=(name, f"analyze {name}"))
        for one in (add(actions, name, text, "analyze"), former):
            one.add_argument("paths", **runs)
            one.add_argument("-o", "--output", help=output)
            if mix:
                one.add_argument("--mix", **MIX)

    sync = add(commands, "sync", "feed MLflow what it lacks of runs, from their files, exactly once")
    sync.add_argument("paths", **{**RUNS, "help": "run folders or sweep folders, finished or not"})
    sync.add_argument("--dry-run", action="store_true", help="only say what is missing")


def add_own(commands: Any) -> None:
    """What there is to choose from, and what is about one's own data and methods."""
    listing = add(commands, "list", "what there is to choose from")
    listing.add_argument("what", choices=LISTS, help="which list")
    listing.add_argument("--plugin", **PLUGIN)

    show = add(commands, "show", "the resolved configuration, every field explained")
    show.add_argument("words", nargs="*", metavar="CONFIG|KEY=VALUE", help="a config's name, or the words of a run")
    show.add_argument("--plugin", **PLUGIN)

    data = commands.add_parser("data", help="check and look at a stream's data, unpack archives")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    check = add(actions, "check", "build a stream; tables, fingerprints and all problems of its data", "data")
    names = "a stream of clrft list streams, a path to a YAML file, or a probe set (.jsonl)"
    check.add_argument("stream", metavar="STREAM", help=names)
    check.add_argument("words", **WORDS)

    show = add(actions, "show", "draw contact sheets, one or more pages per task", "data")
    show.add_argument("stream", metavar="STREAM", help="a stream of clrft list streams, or a path to a YAML file")
    show.add_argument("words", **WORDS)
    show.add_argument("-o", "--output", help="folder of the pictures (default: <run.output>/data/<stream>)")
    show.add_argument("--per-class", type=int, default=4, help="training and test items of each class (default: 4)")

    unpack = add(actions, "unpack", "unpack a tar or zip archive safely into a new folder", "data")
    unpack.add_argument("archive", metavar="ARCHIVE")
    unpack.add_argument("folder", metavar="FOLDER")

    method = commands.add_parser("method", help="write and check a method of your own")
    actions = method.add_subparsers(required=True, metavar="ACTION")
    new = add(actions, "new", "write NAME.py, a method that runs, and test_NAME.py, its test", "method")
    new.add_argument("name", metavar="NAME", help="name of the method: small letters, digits and _")
    new.add_argument("--kind", default="part", help="part (joins sft or grpo; default), supervised or reinforcement")
    new.add_argument("-o", "--output", default=".", metavar="DIR", help="folder of the two files (default: this one)")

    check = add(actions, "check", "try what the contract promises in short runs; a minute or two", "method")
    check.add_argument("file", metavar="FILE", help="Python file with a method (code in it runs), or a method's name")


def add(to: Any, name: str, text: str, module: str = "", **defaults: Any) -> argparse.ArgumentParser:
    """Add a command, whose function is ``NAME_command`` in the module of its name, or in another of ``clrft.cli``."""
    parser: argparse.ArgumentParser = to.add_parser(name, help=text)
    parser.set_defaults(command=(module or name, f"{name}_command"), **defaults)
    return parser
