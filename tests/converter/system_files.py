"""The files of a system that say what it has, as on a Jetson and on a server with NVIDIA's Debian packages."""

from pathlib import Path

L4T = "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 2025\n"


def package(name: str, version: str, status: str = "install ok installed") -> str:
    """An entry of ``/var/lib/dpkg/status``."""
    return f"Package: {name}\nStatus: {status}\nArchitecture: arm64\nVersion: {version}\nDescription: {name}\n more\n"


def write_system(root: Path, *packages: str, l4t: str = "", bindings: bool = False) -> Path:
    """``root`` with these files."""
    texts = {"var/lib/dpkg/status": "\n".join(packages)}
    if l4t:
        texts["etc/nv_tegra_release"] = l4t
    if bindings:
        texts["usr/lib/python3.10/dist-packages/tensorrt/__init__.py"] = ""
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return root


def jetson(root: Path) -> Path:
    """JetPack 6.2.1 on an Orin."""
    return write_system(
        root,
        package("libc6", "2.35-0ubuntu3.10"),
        package("nvidia-jetpack", "6.2.1+b38"),
        package("python3-libnvinfer", "10.3.0.30-1+cuda12.5"),
        l4t=L4T,
        bindings=True,
    )
