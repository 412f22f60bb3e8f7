"""What a user installs: a wheel that works far from the clone, with everything it names."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import loraprof

for tool in ("hatchling", "twine"):
    pytest.importorskip(tool, reason="pip install 'loraprof[dev]'")

ROOT = Path(__file__).parents[1]


def python(cwd: Path, *words: str, **env: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | env
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    python(ROOT, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_bytes(wheel.read(f"loraprof-{loraprof.__version__}.dist-info/METADATA"))


def files(folder: Path, *suffixes: str) -> set[str]:
    found = (path for path in folder.rglob("*") if path.suffix in suffixes or path.name == "py.typed")
    return {str(path.relative_to(folder)) for path in found}


def test_the_wheel_holds_the_package_and_the_profiles(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = {f"loraprof/{name}" for name in files(ROOT / "loraprof", ".py", ".toml", ".js", ".css", ".md", ".txt")}
    profiles = {f"loraprof/_profiles/{name}" for name in files(ROOT / "profiles", ".toml")}
    inside = {name for name in names if ".dist-info/" not in name}
    assert "loraprof/py.typed" in package
    assert inside == package | profiles
    assert sum(info.file_size for info in wheel.infolist()) < 4 << 20  # no recordings


def test_the_metadata_is_complete(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("loraprof", loraprof.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
    folder = f"loraprof-{loraprof.__version__}.dist-info"
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"loraprof = loraprof.__main__:main" in wheel.read(f"{folder}/entry_points.txt")


def test_the_wheel_works_without_the_clone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    wheel.extractall(place)
    code = "import loraprof; from loraprof.store.profiles import profiles_dir; print(loraprof.__file__, profiles_dir())"
    found = python(tmp_path, "-c", code, PYTHONPATH=str(place)).split()
    assert found == [str(place / "loraprof" / "__init__.py"), str(place / "loraprof" / "_profiles")]
    shown = python(tmp_path, "-m", "loraprof", "workloads", PYTHONPATH=str(place), COLUMNS="80").splitlines()
    assert {line.split(" ")[0] for line in shown} >= {path.stem for path in (ROOT / "profiles/workloads").iterdir()}
    assert "sources" in python(tmp_path, "-m", "loraprof", "explain", "L2", PYTHONPATH=str(place))


RELATIVE = re.compile(r"""\]\((?!https?://|#)|(?:src|srcset|href)="(?!https?://)""")


def test_no_link_of_the_readme_leads_to_a_file_that_an_index_lacks(metadata: Message) -> None:
    shown = str(metadata.get_payload())
    assert RELATIVE.search((ROOT / "README.md").read_text())
    assert not RELATIVE.search(shown)
    assert "<picture>" not in shown
    assert "[arXiv 2507.08833](https://arxiv.org" in shown


def test_a_release_links_to_its_commit(tmp_path: Path) -> None:
    names = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "some/where", "GITHUB_SHA": "c0ffee"}
    python(ROOT, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), **names)
    made = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    shown = made.read(f"loraprof-{loraprof.__version__}.dist-info/METADATA").decode()
    assert not RELATIVE.search(shown)
    assert "](https://github.com/some/where/blob/c0ffee/examples/README.md)" in shown
    pictures = re.findall(r'src(?:set)?="https://github.com/some/where/raw/c0ffee/([^"]+)"', shown)
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_source_holds_what_building_and_testing_need(tmp_path: Path) -> None:
    """And a wheel of it is the same: the version and the README come from files that are there."""
    python(ROOT, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path))
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sources:
        sources.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"loraprof-{loraprof.__version__}"
    wanted = ("LICENSE", "CHANGELOG.md", "constraints.txt", ".ci/metadata.py", "tests/conftest.py", "examples/train.py")
    assert all((unpacked / name).is_file() for name in (*wanted, "loraprof/.agents/skills/loraprof/SKILL.md"))
    python(unpacked, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    python(ROOT, "-m", "twine", "check", "--strict", *(str(made) for made in tmp_path.iterdir() if made.is_file()))
