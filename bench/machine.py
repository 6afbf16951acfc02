"""What the figures were measured on."""

import os
import platform
from pathlib import Path


def describe() -> dict[str, str | int | bool]:
    """Return processor, cores, memory, kernel and system of this machine; no name and no address."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    memory = Path("/proc/meminfo").read_text().splitlines()
    return {
        "cpu": _value(cpu, "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in _value(cpu, "flags").split(),
        "memory_bytes": int(_value(memory, "MemTotal").split()[0]) * 1024,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "python": platform.python_version(),
    }


def sentence(machine: dict[str, str | int | bool]) -> str:
    """Return what `describe` found in one line."""
    cores = f"{machine['cores']} {'virtual ' if machine['virtual'] else ''}cores"
    memory = f"{int(machine['memory_bytes']) / 2**30:.0f} GiB"
    return f"{machine['cpu']}, {cores}, {memory}, Linux {machine['kernel']}, {machine['system']}"


def _value(lines: list[str], name: str) -> str:
    """Return what follows `name:` in a file of /proc, or an empty text."""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
