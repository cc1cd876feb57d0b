"""`ctr` on a virtual node: a service there runs it for this machine, one connection at a time each.

It takes a line with a word that only root here and there knows and ctr's arguments, then what ctr
shall read; it gives back what ctr says, and in the last line its exit code.
"""

import contextlib
import secrets
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.layout import VirtualNode

PORT = 10259
EXIT = "@@exit "
SECONDS = 1800.0
"""Until one that hangs is given up; one that was switched off says so by itself."""

SCRIPT = Path("/usr/local/sbin/ctr-for-host")
WORD = Path("/etc/ctr-for-host")


def _word_file(node: VirtualNode) -> Path:
    return node.state / "ctr-word"


def files(node: VirtualNode) -> dict[Path, str]:
    """What the node has for it. Makes the word at the first call."""
    if not _word_file(node).exists():
        _word_file(node).touch(mode=0o600)
        _word_file(node).write_text(secrets.token_hex(16))
    ctr = f"{program('ctr')} --address {node.containerd_socket} -n k8s.io"
    return {
        WORD: _word_file(node).read_text() + "\n",
        SCRIPT: (
            f"read -r word arguments\n"
            f'[ "$word" = "$(cat {WORD})" ] || exit\n'
            f"{ctr} $arguments\n"
            f'echo "{EXIT}$?"\n'
        ),
        Path("/etc/systemd/system/ctr.socket"): (
            "[Unit]\nDefaultDependencies=no\n"
            f"[Socket]\nListenStream={node.address}:{PORT}\nAccept=yes\n"
        ),
        Path("/etc/systemd/system/ctr@.service"): (
            "[Unit]\nDefaultDependencies=no\n"
            f"[Service]\nExecStart=/bin/sh {SCRIPT}\n"
            "StandardInput=socket\nStandardOutput=socket\nStandardError=socket\n"
        ),
    }


def run(node: VirtualNode, arguments: Sequence[str], stdin: Path) -> str:
    """Run ctr there; gives what it says.

    Raises:
        LocalClusterError: It failed, or nobody answers.
    """
    what = f"ctr {' '.join(arguments)} on {node.name}"
    said = b""
    try:
        with socket.create_connection((node.address, PORT), timeout=SECONDS) as connection:
            line = f"{_word_file(node).read_text()} {' '.join(arguments)}\n"
            connection.sendall(line.encode())
            with stdin.open("rb") as file, connection.makefile("wb") as output:
                shutil.copyfileobj(file, output)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                said += part
    except OSError as error:
        raise LocalClusterError(f"{what}: {error}") from error
    text, mark, code = said.decode(errors="replace").rpartition(EXIT)
    if not mark or code.strip() != "0":
        raise LocalClusterError(f"{what}: {(text or said.decode(errors='replace')).strip()}")
    return text
