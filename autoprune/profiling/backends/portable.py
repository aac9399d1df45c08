"""What backends and kits must do alike; needs Python and ONNX Runtime alone.

This file is copied into every kit beside the runner, and imports nothing of autoprune.
"""

from __future__ import annotations

import os
import pathlib
import platform
import re
from typing import Any

CPU = "CPUExecutionProvider"


def processor_name() -> str:
    """Return the name of the CPU, as the system knows it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def default_threads() -> int:
    """Return the threads that ONNX Runtime uses by default: one for every physical core."""
    try:
        described = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    cores = set(re.findall(r"physical id\s*:\s*(\d+).*?core id\s*:\s*(\d+)", described, re.S))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(len(cores) or usable or 1, usable or 1)


def device_name(provider: str) -> str:
    """Return the name of the CPU, with ONNX Runtime's provider where it is another one."""
    name = processor_name()
    return name if provider == CPU else f"{provider} beside {name}"


def open_session(library: Any, model: str | bytes, threads: int | None, provider: str) -> Any:
    """Return an ONNX Runtime session with the options of all measured sessions.

    The idle threads of a session sleep. If they spun, as is ONNX Runtime's default, they would
    take the processors from the other sessions that are measured in turn.

    Args:
        library: The module `onnxruntime`.
        model: The path or the content of a model.
        threads: The threads of one run; None leaves them to ONNX Runtime.
        provider: The full name of the execution provider.

    Raises:
        RuntimeError: The provider does not start, so that the CPU would be measured instead.
    """
    options = library.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0 leaves it to ONNX Runtime
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = library.InferenceSession(model, options, [provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} does not start")
    return session
