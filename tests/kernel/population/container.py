"""A container of runc's with containerd's default seccomp profile, for programs to run in."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kernel.population.build import Programs
from kernel.population.injection import Member
from kernel.population.kinds import Kind

PROFILE = Path(__file__).parent / "seccomp.json"
"""contrib/seccomp of containerd 2.4, for a container without capabilities."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")


class Inside(Member):
    """A program in a container, started by `runc exec`."""

    def __init__(
        self,
        kind: Kind,
        command: list[str],
        popen: "subprocess.Popen[bytes]",
        output: Path,
        pid_file: Path,
    ) -> None:
        super().__init__(kind, command, popen, output)
        self._pid_file = pid_file

    def pid(self) -> int | None:
        """The program's id on the host."""
        try:
            text = self._pid_file.read_text()
        except FileNotFoundError:
            return None
        return int(text) if text else None


class Container:
    """A running container that programs are started in."""

    def __init__(self, runc: Path, folder: Path, programs: Programs) -> None:
        self._folder = folder
        self._name = f"ksm-test-{os.getpid()}"
        self._runc = [str(runc), "--root", str(folder / "state")]
        self._visible = [*SYSTEM, str(programs.folder), str(programs.scripts), str(folder)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and take it away with all that runs in it."""
        (self._folder / "rootfs").mkdir()
        subprocess.run([*self._runc, "spec"], cwd=self._folder, check=True)
        file = self._folder / "config.json"
        file.write_text(json.dumps(self._changed(json.loads(file.read_text()))))
        try:
            # Its first process holds on to the output that it is given.
            subprocess.run(
                [*self._runc, "run", "--detach", self._name],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            yield
        finally:
            subprocess.run([*self._runc, "delete", "--force", self._name], check=True)

    def _changed(self, config: dict) -> dict:  # type: ignore[type-arg]
        """A bundle as containerd would write it, but with this machine's programs to be seen."""
        config["process"].update(terminal=False, args=["sleep", "infinity"])
        config["root"]["readonly"] = False
        mounts = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
        mounts += [
            {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
            for path in self._visible
            if Path(path).exists()
        ]
        # Not absolute: below the cgroup that the tests run in.
        config["linux"]["cgroupsPath"] = self._name
        config["linux"]["seccomp"] = json.loads(PROFILE.read_text())
        return config | {"mounts": mounts}

    def start(self, kind: Kind, command: list[str], output: Path) -> Member:
        """Start a program in it; see `injection.start_here`."""
        pid_file = output.with_suffix(".pid")
        words = [*self._runc, "exec", "--pid-file", str(pid_file), self._name, *command]
        with output.open("wb") as file:
            popen = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        return Inside(kind, command, popen, output, pid_file)
