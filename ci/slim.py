"""Take what never runs out of installed packages, and compile the rest: slim.py PREFIX, within the image's build.

The standard library is compiled as well, into the same prefix: the base image ships no bytecode.
"""

import compileall
import py_compile
import re
import shutil
import sys
import sysconfig
from pathlib import Path

# Tests, tools for training and for building extensions, and onnxruntime's library for C programs, which its module for
# Python is not linked to.
UNUSED = [
    "**/tests",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/random/lib",
    "onnxruntime/capi/libonnxruntime.so.*",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
]
# Types, and the sources of compiled modules.
SUFFIXES = {".a", ".c", ".cpp", ".h", ".pxd", ".pxi", ".pyi", ".pyx"}
# Of the standard library: what no forecast imports.
NEVER = r"/(ensurepip|idlelib|lib2to3|pydoc_data|site-packages|test|tkinter|turtledemo|unittest)(/|$)"


def main(prefix: Path) -> None:
    """Slim and compile the packages below a prefix."""
    installed = prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = installed / "site-packages"
    for path in [path for pattern in UNUSED for path in packages.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in packages.rglob("*"):
        if path.suffix in SUFFIXES and path.is_file():
            path.unlink()
    standard = Path(sysconfig.get_path("stdlib"))
    for folder, never in ((packages, None), (standard, re.compile(NEVER))):
        compileall.compile_dir(
            folder,
            quiet=1,
            rx=never,
            stripdir=prefix if folder is packages else None,
            prependdir=sys.prefix if folder is packages else None,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    for compiled in standard.rglob("*.pyc"):
        if "site-packages" not in compiled.parts:
            target = installed / compiled.relative_to(standard)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(compiled, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
