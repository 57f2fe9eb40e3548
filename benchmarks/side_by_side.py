"""What the comparisons with peers share: environments, the machine, and how results are shown."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
OURS = ROOT / "requirements-serve.txt"


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every comparison."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True, help="model directory, trained on the full record")
    made.add_argument("--data", type=Path, required=True, help="the full record as CSV, plain or gzipped")
    made.add_argument("--work", type=Path, help="folder for environments and files, kept (default: a temporary one)")
    made.add_argument("--rounds", type=int, default=5, help="in each, everything is measured in turn (%(default)s)")
    made.add_argument("--uv", default=_beside_python("uv"), help="what makes environments (default: %(default)s)")
    return made


def _beside_python(program: str) -> str:
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else program


def main(run: Callable[[argparse.Namespace, Path], None], given: argparse.Namespace) -> None:
    """Run in the folder to work in. SIGTERM ends the script as Ctrl-C does, so that what it started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
        run(given, given.work.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
            run(given, Path(folder))


def environment(uv: str, work: Path, requirements: Path) -> Path:
    """The `bin` of an environment with exactly these requirements, made where it is not there yet."""
    folder = work / f"environment-{requirements.stem}"
    installed = folder / requirements.name
    if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
        note(f"making {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
        call = [uv, "pip", "sync", "-q", "--python", str(folder / "bin" / "python"), str(requirements)]
        subprocess.run(call, check=True)
        shutil.copy(requirements, installed)
    return folder / "bin"


def variables(**more: str) -> dict[str, str]:
    """The environment variables of a process: without RAINCAST_* settings and paths of whoever calls."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "PYTHON"))}
    return ours | more


def pins(requirements: Path, *names: str) -> str:
    """Versions of libraries as a requirements file pins them."""
    found = dict(line.split(" ")[0].split("==") for line in requirements.read_text().splitlines() if "==" in line[:60])
    return ", ".join(f"{name} {found[name]}" for name in names)


def machine() -> str:
    """Processor, cores, memory and Python."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {platform.platform()}, {python}"


def note(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, least and largest."""
    median, least, most = (f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours divided by theirs, round by round; infinite where theirs is zero."""
    return [a / b if b else float("inf") for a, b in zip(ours, theirs, strict=True)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- |", "|---|") for line in lines) + "\n"


def held(name: str, wanted: str, values: Sequence[float], digits: int = 1) -> list[str]:
    """A line of the table of bars; `wanted` is as in ">= 3" or "<= 0.5"."""
    sign, limit = wanted.split()
    median = statistics.median(values)
    reached = median <= float(limit) if sign == "<=" else median >= float(limit)
    return [name, wanted, spread(values, digits), "yes" if reached else "**no**"]


BARS = ("measure", "bar", "median (least to most)", "reached")
