"""Private folders on the node's own disk, for sockets and other files that a shared filesystem cannot hold.

Not below the run directory: the path of a unix socket may have 107 bytes at most, and a socket on a
shared filesystem is none to the other nodes. A process that is killed leaves its folder behind; a
note beside the role's other files lets the next start on the same node remove it.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from orchestrator.files import private_folder, write_text


class LocalFolder:
    """One such folder; ``close`` removes it.

    Args:
        notes: The role's folder, where the note is kept.
        name: What the folder is for, unique within the role: ``"ray"``. Part of its path.
    """

    def __init__(self, notes: Path, name: str) -> None:
        self._note = private_folder(notes) / f"{name}-folder.{socket.gethostname()}"
        if self._note.exists():
            shutil.rmtree(self._note.read_text(encoding="utf-8"), ignore_errors=True)
        # mkdtemp makes it 0700, so nobody else can open what is in it.
        self.path = Path(tempfile.mkdtemp(prefix=f"orch-{name}-"))
        write_text(self._note, str(self.path))

    def close(self) -> None:
        """Remove the folder and the note. What cannot be removed stays for the site's own cleaning."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._note.unlink(missing_ok=True)
