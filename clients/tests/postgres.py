"""A Postgres server of one test: its own folder and socket, killed and started again at will.

Also one that listens on 127.0.0.1, and a standby of it.
"""

import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile

from harness import wait_until

USER = "postgres"


def as_postgres(program, *arguments):
    """The command line of a program of the newest installed Postgres; it refuses to run as root."""
    versions = pathlib.Path("/usr/lib/postgresql")
    assert versions.is_dir(), "install Debian's package postgresql"
    newest = max(int(folder.name) for folder in versions.iterdir() if folder.name.isdigit())
    user = ["--reuid", USER, "--regid", USER, "--clear-groups"] if os.geteuid() == 0 else []
    # A test run that is killed takes its server along.
    prefix = ["setpriv", *user, "--pdeathsig", "QUIT"]
    return [*prefix, str(versions / str(newest) / "bin" / program), *map(str, arguments)]


class Postgres:
    """Use it with `with`."""

    def __init__(self, *settings, network=False):
        # Not below pytest's own folder: nobody but root may look into that.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.folder / "data"
        self.url_file = self.folder / "url"
        self.process = None
        self.settings = ["listen_addresses=", *settings]
        self.port = 5432
        if network:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self.settings[0] = "listen_addresses=127.0.0.1"

    def __enter__(self):
        if os.geteuid() == 0:
            owner = pwd.getpwnam(USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self.make()
        self.start()
        return self

    def make(self):
        made = as_postgres("initdb", "--no-sync", "--auth=trust", "--username", USER)
        made += ["--encoding=UTF8", "--locale=C.UTF-8", "--pgdata", str(self.data)]
        subprocess.run(made, check=True, capture_output=True, cwd="/")
        self.url_file.write_text(f"postgres:///postgres?host={self.folder}&user={USER}\n")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
        shutil.rmtree(self.folder)

    def kill(self):
        """SIGKILL: no shutdown of any kind."""
        self.process.kill()
        self.process.wait(30)

    def start(self):
        """Also after `kill`; until the children of the old server noticed, a new one gives up."""
        wait_until(self._try, "Postgres started", 60)

    def _try(self):
        if self.process is None or self.process.poll() is not None:
            arguments = ["-D", self.data, "-k", self.folder, "-p", self.port]
            for setting in self.settings:
                arguments += ["-c", setting]
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    as_postgres("postgres", *arguments), stdout=log, stderr=log, cwd="/"
                )
        ready = as_postgres("pg_isready", "--quiet", "--host", self.folder, "--port", self.port)
        return subprocess.run(ready, check=False, cwd="/").returncode == 0

    def ask(self, sql):
        """The answer to a statement as text."""
        command = as_postgres("psql", "-At", "-h", self.folder, "-p", self.port, "-U", USER)
        command += ["-d", "postgres", "-c", sql]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
        return answer.stdout.strip()


class Standby(Postgres):
    """Follows the server on `port`, which it can take the place of."""

    NAME = "standby"

    def __init__(self, port):
        super().__init__(network=True)
        self.primary_port = port

    def make(self):
        primary = (
            f"host=127.0.0.1 port={self.primary_port} user={USER} application_name={self.NAME}"
        )
        copy = as_postgres("pg_basebackup", "--no-sync", "--write-recovery-conf")
        copy += ["--checkpoint=fast", "--pgdata", str(self.data), "--dbname", primary]
        subprocess.run(copy, check=True, capture_output=True, cwd="/")

    def promote(self):
        self.ask("SELECT pg_promote()")
