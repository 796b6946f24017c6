"""Starts the real binary on a free port with an empty data directory, and stops it again.

Every wait has a limit, so that a server that hangs fails a test instead of blocking it.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

START_MAX_S = 30
DRAIN_MAX_S = 30

LISTENING = re.compile(r"keyrelay listening on (http://127\.0\.0\.1:\d+/)\n")


class Server:
    """A running server. `base_url` ends with a slash; `bootstrap` has the Super Admin's id and secret."""

    def __init__(self):
        binary = os.environ.get("KEYRELAY_BIN")
        if not binary:
            raise RuntimeError("KEYRELAY_BIN is not set: it must be the path of the keyrelay binary to test")
        self._folder = tempfile.TemporaryDirectory(prefix="keyrelay-e2e-")
        data_dir = Path(self._folder.name) / "data"
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir)],
                env=_own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        overdue = threading.Timer(START_MAX_S, self._process.kill)
        overdue.start()
        line = self._process.stdout.readline()
        overdue.cancel()
        listening = LISTENING.fullmatch(line)
        if not listening:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"keyrelay did not start: {line!r}\n{self._log.read_text()}")
        self.base_url = listening[1]
        self.fhir_url = f"{self.base_url}fhir/R4"
        self.bootstrap = json.loads((data_dir / "bootstrap.json").read_text())

    def stop(self):
        """Ends the server by SIGTERM, which must drain and exit 0."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(DRAIN_MAX_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process.stdout.close()
        log = self._log.read_text()
        self._folder.cleanup()
        if code != 0:
            raise RuntimeError(f"SIGTERM must drain and exit 0, not {code}\n{log}")


def _own_environment():
    """Settings of the shell that runs the tests must not reach the server under test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYRELAY_")}
    return {**inherited, "KEYRELAY_LOG": "debug"}
