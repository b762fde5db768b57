"""What a cluster in production keeps its catalog and its files in: Postgres and an S3 server.

Both are real, and killed and paused as a whole, and requests to the S3 server fail one by one as
they do at a cloud. Nothing they confirmed may be lost by that.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import sys
import time

sys.path.append(str(pathlib.Path(__file__).parents[2] / "clients" / "tests"))
sys.path.append(str(pathlib.Path(__file__).parents[1] / "stores"))

from postgres import USER, Postgres
from proxy import Proxy
from versitygw import ACCESS_KEY, REGION, SECRET_KEY, Versitygw

VERSITYGW = os.environ.get("VERSITYGW", "versitygw")
BUCKET = "chaos"
START_SECONDS = 60


class Server:
    """A server that is no part of the product; whoever kills it starts it again."""

    def __init__(self):
        self.paused = []

    def running(self):
        return self.main() is not None and self.main().poll() is None

    def family(self):
        """The ids of all its processes, children first."""
        main = self.main().pid
        return [*children(main), main]

    def kill(self):
        """SIGKILL for all of it at once; what the kernel was given for the disk stays."""
        self.resume()
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.main().wait(START_SECONDS)

    def pause(self):
        self.paused = self.family()
        for pid in reversed(self.paused):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self):
        for pid in self.paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.paused = []

    def heal(self):
        """Whatever was done to it, it serves; it is started if it never was."""
        self.resume()
        if not self.running():
            self.start()


class CatalogServer(Server):
    """Postgres with an empty database."""

    name = "postgres"

    def __init__(self, folder):
        super().__init__()
        self.log_copy = pathlib.Path(folder) / "postgres.log"
        self.postgres = Postgres(network=True)

    def main(self):
        return self.postgres.process

    def port(self):
        return self.postgres.port

    def start(self):
        if self.main() is None:
            self.postgres.__enter__()
        else:
            self.postgres.start()

    def settings(self, folder, port):
        """How a process finds it behind a port."""
        url = folder / "postgres-url"
        url.write_text(f"postgres://{USER}@127.0.0.1:{port}/postgres\n")
        return {"postgres_url_file": str(url)}

    def end(self):
        self.resume()
        if self.main() is None:
            shutil.rmtree(self.postgres.folder)
            return
        # The folder of the run stays when something is wrong.
        self.log_copy.write_bytes((self.postgres.folder / "log").read_bytes())
        self.postgres.__exit__()


class ObjectServer(Server):
    """An S3 server with an empty bucket."""

    name = "store"

    def __init__(self, folder):
        super().__init__()
        self.server = Versitygw(VERSITYGW, pathlib.Path(folder) / "store")
        self.server.make_bucket(BUCKET)
        self.proxy = Proxy(self.server.port)
        self.fails = False

    def main(self):
        return self.server.process

    def port(self):
        """Where connections go: to the proxy while requests are to fail."""
        return self.proxy.port if self.fails else self.server.port

    def fail_requests(self, seed, share):
        """From now on this share of the requests of new connections fails."""
        self.proxy.done.clear()
        self.proxy.fail(seed, share)
        self.fails = True

    def end_failures(self):
        """Ends that; returns how often each kind of failure happened."""
        self.fails = False
        self.proxy.heal()
        return {fault: times for fault, times in dict(self.proxy.done).items() if fault}

    def heal(self):
        self.end_failures()
        super().heal()

    def start(self):
        if shutil.which(VERSITYGW) is None:
            raise AssertionError(
                f"{VERSITYGW} is not there: `make test STAGES='setup node-tools'` makes"
                " versitygw, VERSITYGW says where it is"
            )
        self.server.start()
        end = time.monotonic() + START_SECONDS
        while not self.server.is_up():
            if time.monotonic() > end:
                raise AssertionError("the S3 server does not listen")
            time.sleep(0.02)

    def settings(self, folder, port):
        """How a process finds it behind a port."""
        key, secret = folder / "access-key", folder / "secret-key"
        key.write_text(ACCESS_KEY + "\n")
        secret.write_text(SECRET_KEY + "\n")
        return {
            "kind": "s3",
            "bucket": BUCKET,
            "region": REGION,
            "endpoint": f"http://127.0.0.1:{port}",
            "allow_http": True,
            "path_style": True,
            "access_key_id_file": str(key),
            "secret_access_key_file": str(secret),
        }

    def end(self):
        self.resume()
        self.proxy.stop()
        self.server.stop()


def children(pid):
    """The children of all threads of a process; none of a process that ended."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found
