"""Plugin of pylint that saves half of its time and changes none of its messages.

astroid parses its description of numpy.ndarray anew for each mention of an array, and the garbage collector goes
through syntax trees that all live until the end.
"""

from __future__ import annotations

import functools
import gc
from typing import TYPE_CHECKING, Any

from astroid.brain import brain_numpy_ndarray

if TYPE_CHECKING:
    from pylint.lint import PyLinter

numpy_brain: Any = brain_numpy_ndarray


def register(_linter: PyLinter) -> None:
    """Parse numpy.ndarray once, and collect no garbage; pylint calls this again in each of its processes."""
    gc.disable()
    if not hasattr(numpy_brain.extract_node, "cache_info"):
        numpy_brain.extract_node = functools.cache(numpy_brain.extract_node)
