"""Remove from installed packages what never runs, and compile the rest.

    python slim.py PREFIX

The Dockerfile runs it by its path, where no other module of ci/ is. It also compiles the standard library into the same
prefix, because the base image ships no bytecode.
"""

import compileall
import py_compile
import re
import shutil
import sys
import sysconfig
from pathlib import Path

# Tests, tools for training and for building extensions, and onnxruntime's library for C programs, to which its Python
# module is not linked.
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
# Type stubs, and the sources of compiled modules.
SUFFIXES = {".a", ".c", ".cpp", ".h", ".pxd", ".pxi", ".pyi", ".pyx"}
# Parts of the standard library that no forecast imports.
NEVER_IMPORTED = r"/(ensurepip|idlelib|lib2to3|pydoc_data|site-packages|test|tkinter|turtledemo|unittest)(/|$)"


def main(prefix: Path) -> None:
    """Slim and compile the packages in a prefix."""
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
    for folder, excluded in ((packages, None), (standard, re.compile(NEVER_IMPORTED))):
        compileall.compile_dir(
            folder,
            quiet=1,
            rx=excluded,
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
