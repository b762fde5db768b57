"""A Postgres server of one test: its own folder and socket, killed and started again at will."""

import os
import pathlib
import pwd
import shutil
import signal
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

    def __init__(self):
        # Not below pytest's own folder: nobody but root may look into that.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.folder / "data"
        self.url_file = self.folder / "url"
        self.process = None

    def __enter__(self):
        if os.geteuid() == 0:
            owner = pwd.getpwnam(USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        made = as_postgres("initdb", "--no-sync", "--auth=trust", "--username", USER)
        made += ["--encoding=UTF8", "--locale=C.UTF-8", "--pgdata", str(self.data)]
        subprocess.run(made, check=True, capture_output=True, cwd="/")
        self.url_file.write_text(f"postgres:///postgres?host={self.folder}&user={USER}\n")
        self.start()
        return self

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
            arguments = ["-D", self.data, "-k", self.folder, "-c", "listen_addresses="]
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    as_postgres("postgres", *arguments), stdout=log, stderr=log, cwd="/"
                )
        ready = as_postgres("pg_isready", "--quiet", "--host", self.folder)
        return subprocess.run(ready, check=False, cwd="/").returncode == 0
