"""A virtual environment for each peer, made on demand and used again while its requirements stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

INSTALL_S = 1500.0
VERSIONS_S = 180.0
_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class EnvironmentFailed(Exception):
    """An environment could not be made; the message says why, and where its log is."""


class Environment:
    """The environment of one peer.

    folder: where it is, or will be. requirements: what is installed. shares_torch: packages of the running
    interpreter can be imported too, behind its own ones; only for peers that agree with its torch.
    """

    def __init__(self, folder: Path, requirements: Path, *, shares_torch: bool) -> None:
        self.folder = folder
        self.requirements = requirements
        self.shares_torch = shares_torch

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the installer said."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def fingerprint(self) -> str:
        """Of all that it depends on."""
        base = sysconfig.get_path("purelib") if self.shares_torch else ""
        digest = hashlib.sha256(self.requirements.read_bytes())
        digest.update(json.dumps([sys.version, base]).encode())
        return digest.hexdigest()

    def ready(self) -> bool:
        """Whether it is there, made of the same requirements."""
        stamp = self.folder / "made-of"
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self.fingerprint()

    def make(self, note: Callable[[str], None]) -> None:
        """Make it where it is not ready. Raises: EnvironmentFailed."""
        if self.ready():
            return
        note(f"making the environment {self.folder} (some minutes the first time)")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # Without a pip of its own: the running one installs into it, and there is one less to unpack.
        self._run([sys.executable, "-m", "venv", "--without-pip", str(self.folder)])
        if self.shares_torch:
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            site = self.folder / "lib" / version / "site-packages"
            (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        install = ["install", "--no-compile", "--requirement", str(self.requirements)]
        self._run([sys.executable, "-m", "pip", "--python", str(self.python), *install])
        (self.folder / "made-of").write_text(self.fingerprint(), encoding="utf-8")

    def versions(self, names: list[str]) -> dict[str, str]:
        """Distribution to version, of those that it has. Raises: EnvironmentFailed."""
        command = [str(self.python), "-c", _VERSIONS, *names]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=VERSIONS_S, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise EnvironmentFailed(f"{self.python} does not run ({error}): remove {self.folder}") from error
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def _run(self, command: list[str]) -> None:
        # The project's own pins are not the peers'.
        environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
        try:
            with self.log.open("ab") as log:
                subprocess.run(
                    command, stdout=log, stderr=log, env=environment, timeout=INSTALL_S, check=True
                )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            why = "took too long" if isinstance(error, subprocess.TimeoutExpired) else "failed"
            raise EnvironmentFailed(f"installing {why}: {' '.join(tail)} (log: {self.log})") from error
