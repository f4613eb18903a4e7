"""What the system itself brings beside Python's packages: a Jetson's JetPack, and TensorRT from Debian packages.

Both lie outside of a virtual environment, which sees TensorRT's Python bindings only where it was made with
``--system-site-packages``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

_L4T = "etc/nv_tegra_release"  # "# R36 (release), REVISION: 4.3, GCID: …"
_DPKG = "var/lib/dpkg/status"
_BINDINGS = "usr/lib/python3*/dist-packages/tensorrt/__init__.py"
_JETPACK = ("nvidia-jetpack", "nvidia-jetpack-runtime", "nvidia-jetpack-dev")
_TENSORRT = ("python3-libnvinfer", "libnvinfer10", "libnvinfer11", "libnvinfer-bin", "tensorrt")


@dataclass(frozen=True)
class SystemPackages:
    """Versions; None is what isn't there.

    ``l4t`` is the release of Jetson Linux, ``bindings`` the folder of the system's Python that has TensorRT's.
    """

    l4t: str | None = None
    jetpack: str | None = None
    tensorrt: str | None = None
    bindings: str | None = None


def system_packages(root: Path | None = None) -> SystemPackages:
    """What the files of the system under ``root``, else ``ROOT``, say; no package is imported and no program run."""
    root = ROOT if root is None else root
    installed = _dpkg_versions(root / _DPKG)
    found = sorted(root.glob(_BINDINGS))
    return SystemPackages(
        l4t=_l4t_release(root / _L4T),
        jetpack=next((installed[name] for name in _JETPACK if name in installed), None),
        tensorrt=next((installed[name] for name in _TENSORRT if name in installed), None),
        bindings=f"/{found[-1].parents[1].relative_to(root)}" if found else None,
    )


def _l4t_release(path: Path) -> str | None:
    match = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(path))
    return f"{match[1]}.{match[2]}" if match else None


def _dpkg_versions(path: Path) -> dict[str, str]:
    """Package -> upstream version, ``10.3.0.30`` of ``10.3.0.30-1+cuda12.5``, of those that are installed."""
    found = {}
    for entry in _text(path).split("\n\n"):
        name = re.search(r"^Package: (\S+)$", entry, re.MULTILINE)
        version = re.search(r"^Version: (?:\d+:)?(\d+(?:\.\d+)*)", entry, re.MULTILINE)
        installed = re.search(r"^Status: \S+ \S+ installed$", entry, re.MULTILINE)
        if name and version and installed:
            found[name[1]] = version[1]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another distribution, or not for everyone to read
        return ""
