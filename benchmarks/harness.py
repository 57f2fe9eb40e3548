"""Code shared by the comparisons with peers: command line, environments, and tables of results."""

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
RAINCAST_PINS = ROOT / "requirements-serve.txt"
BAR_COLUMNS = ("measure", "bar", "median (least to most)", "reached")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments common to all comparisons."""
    common = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_argument(
        "--model", type=Path, required=True, help="model directory, trained by this checkout on the full record"
    )
    common.add_argument("--data", type=Path, required=True, help="the full record as CSV, plain or gzipped")
    common.add_argument("--before", type=Path, help="checkout of an earlier commit, measured in the same rounds")
    common.add_argument("--before-model", type=Path, help="model directory of --before (default: that of --model)")
    common.add_argument("--work", type=Path, help="folder for environments and files, kept (default: a temporary one)")
    common.add_argument("--rounds", type=int, default=5, help="each measures everything once (default: %(default)s)")
    common.add_argument("--uv", default=_next_to_python("uv"), help="program that makes environments (%(default)s)")
    return common


def _next_to_python(program: str) -> str:
    path = Path(sys.executable).parent / program
    return str(path) if path.exists() else program


def main(run: Callable[[argparse.Namespace, Path], None], options: argparse.Namespace) -> None:
    """Call `run` with the work folder. SIGTERM exits like Ctrl-C, so that child processes are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        run(options, options.work.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
            run(options, Path(folder))


def environment(uv: str, work: Path, requirements: Path) -> Path:
    """Return the `bin` folder of an environment with exactly these requirements; make the environment if needed."""
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
    """Return environment variables for a child process, without the caller's RAINCAST_* and PYTHON* settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "PYTHON"))}
    return inherited | more


def pins(requirements: Path, *names: str) -> str:
    """Return the versions of libraries pinned in a requirements file."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    versions = dict(line.split(" ")[0].split("==") for line in lines if "==" in line[:60])
    return ", ".join(f"{name} {versions[name]}" for name in names)


def commit(checkout: Path) -> str:
    """Return the short hash of the commit that is checked out."""
    call = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """Return processor, cores, memory, operating system and Python version."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {platform.platform()}, {python}"


def note(line: str) -> None:
    """Report progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Format the median, least and largest value."""
    median, least, most = (f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divide round by round; infinite if the denominator is zero."""
    return [a / b if b else float("inf") for a, b in zip(numerators, denominators, strict=True)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- |", "|---|") for line in lines) + "\n"


def bar_row(measure: str, limit: str, values: Sequence[float], digits: int = 1) -> list[str]:
    """Return a row of the table of bars. `limit` is like ">= 3" or "<= 0.5" for the median, or empty."""
    if not limit:
        return [measure, "", spread(values, digits), ""]
    sign, number = limit.split()
    median = statistics.median(values)
    reached = median <= float(number) if sign == "<=" else median >= float(number)
    return [measure, limit, spread(values, digits), "yes" if reached else "**no**"]
