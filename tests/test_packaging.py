"""The layout works as one package: links in the checkout, and a wheel that leaves nothing out."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("search_space", "compile", "runtime", "reports")


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def source_files() -> dict[str, Path]:
    """Files the wheel must hold, by their name in it: all modules, type marker and the demo's data."""
    found = {}
    for folder in ("autotune", *MAPPED):
        for path in (ROOT / folder).rglob("*"):  # rglob follows no links below the folder itself
            relative = path.relative_to(ROOT).as_posix()
            if "__pycache__" in relative or path.is_dir() or path.is_symlink():
                continue
            if folder == "autotune" and relative.split("/")[1] in MAPPED:
                continue
            found[relative if folder == "autotune" else f"autotune/{relative}"] = path
    return found


@pytest.mark.parametrize("name", MAPPED)
def test_link_leads_to_the_top_level_folder(name: str) -> None:
    link = ROOT / "autotune" / name

    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / name).resolve()


def test_every_folder_with_modules_is_a_listed_package() -> None:
    folders = {name.rpartition("/")[0].replace("/", ".") for name in source_files() if name.endswith(".py")}
    settings = project()["tool"]["setuptools"]  # type: ignore[index]

    assert sorted(settings["packages"]) == sorted(folders)
    assert settings["package-dir"] == {"autotune": "autotune"} | {f"autotune.{name}": name for name in MAPPED}


@pytest.mark.slow
def test_wheel_holds_every_file_and_only_our_name(tmp_path: Path) -> None:
    if _installed_setuptools() < 80:
        pytest.skip("building without a network needs setuptools 80 or newer installed")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("autotune", *MAPPED, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, checkout / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-q", "-w", "dist", "."]
    done = subprocess.run(build, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (checkout / "dist").glob("draft_autotune-*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    missing = set(source_files()) - set(names)
    assert not missing
    top_level = {name.partition("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"autotune"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("autotune/demo/data/NOTICE") for name in names)


def _installed_setuptools() -> int:
    """Its major version; 0 if it is not installed."""
    try:
        return int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return 0
