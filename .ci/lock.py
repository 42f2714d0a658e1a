"""Write requirements.lock: the pins of requirements.txt with the SHA-256 of each of their files."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from packaging.version import Version
from pip._internal.models.index import PyPI  # the index that pip asks by default

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^(?:#: )?([\w.-]+)==(\S+)", re.MULTILINE)
BY_MACHINE = ("torch",)  # whose builds are of several indexes
HEADER = "# Written by `make lock` from requirements.txt, which says what is installed and why.\n"


def version_of(name: str) -> Version | None:
    """The version that a file of a package index has; None for formats that pip does not take."""
    try:
        return (
            parse_wheel_filename(name)[1]
            if name.endswith(".whl")
            else parse_sdist_filename(name)[1]
        )
    except ValueError:
        return None


def locked(name: str, version: str) -> str:
    """The pin of a package with all of its hashes, as `pip install --require-hashes` reads it."""
    form = {"Accept": "application/vnd.pypi.simple.v1+json"}
    answer = requests.get(f"{PyPI.simple_url}/{name}/", headers=form, timeout=60)
    answer.raise_for_status()
    files = answer.json()["files"]
    hashes = {f["hashes"]["sha256"] for f in files if version_of(f["filename"]) == Version(version)}
    if not hashes:
        raise SystemExit(f"{name}=={version}: not in the package index")
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{h}" for h in sorted(hashes))])


def main() -> None:
    """Read one file and write the other."""
    pins = PIN.findall((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    pins = sorted(pin for pin in pins if pin[0] not in BY_MACHINE)
    with ThreadPoolExecutor(8) as threads:
        lines = list(threads.map(lambda pin: locked(*pin), pins))
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
