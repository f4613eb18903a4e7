"""What the files of a system say of JetPack and TensorRT."""

from pathlib import Path

import pytest

from converter.environment.system import SystemPackages, system_packages
from tests.converter.system_files import jetson, package, write_system


def test_a_jetson(tmp_path: Path) -> None:
    assert system_packages(jetson(tmp_path)) == SystemPackages(
        l4t="36.4.4", jetpack="6.2.1", tensorrt="10.3.0.30", bindings="/usr/lib/python3.10/dist-packages"
    )


def test_a_server_with_debian_packages(tmp_path: Path) -> None:
    write_system(tmp_path, package("libnvinfer10", "10.13.3.9-1+cuda13.0"), package("zlib1g", "1:1.2.11"))
    assert system_packages(tmp_path) == SystemPackages(tensorrt="10.13.3.9")


@pytest.mark.parametrize(
    ("entry", "jetpack"),
    [
        (package("nvidia-jetpack", "5.1.1-b56"), "5.1.1"),
        (package("nvidia-jetpack-runtime", "1:6.1+b123"), "6.1"),
        (package("nvidia-jetpack", "6.1+b123", "deinstall ok config-files"), None),
        (package("nvidia-jetpack-apt-source", "1.0"), None),
    ],
)
def test_the_release_of_jetpack(tmp_path: Path, entry: str, jetpack: str | None) -> None:
    assert system_packages(write_system(tmp_path, entry)).jetpack == jetpack


def test_another_system(tmp_path: Path) -> None:
    assert system_packages(tmp_path) == SystemPackages()
    (tmp_path / "usr/lib/python3/dist-packages/tensorrt").mkdir(parents=True)  # left over: no module in it
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("something else")
    assert system_packages(tmp_path) == SystemPackages()
