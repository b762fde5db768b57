"""The object stores that the scenarios run over, behind one face.

A kind has the ports, buckets and credentials of its service, and makes the settings with which the
binary uses it. Breaking the way to it is proxy.py's business.
"""

import pathlib

from gcs import Front
from gcs_identity import Identity, ServiceAccount
from proxy import SLOW_DOWN, TOO_MANY
from versitygw import ACCESS_KEY, REGION, SECRET_KEY, Versitygw

BUCKET = "rows"


class S3:
    """versitygw as it is."""

    place = "S3 bucket"
    throttled = (SLOW_DOWN,)
    # Method of a request that deletes objects, and what its target holds.
    deletion = ("POST", "?delete")

    def __init__(self, program, folder, leaf=None):
        self.server = Versitygw(program, folder, leaf)
        self.server.make_bucket(BUCKET)

    @property
    def port(self):
        return self.server.port

    def start(self):
        self.server.start()

    def is_up(self):
        return self.server.is_up()

    def stop(self):
        self.server.stop()

    def credentials_of_a_stranger(self):
        return "not-the-key"

    def accept(self, credentials):
        self.server.stop()
        self.server.secret = credentials
        self.server.start()

    def settings(self, folder, credentials=None):
        key_id, secret = folder / "id", folder / "secret"
        key_id.write_text(ACCESS_KEY + "\n")
        secret.write_text((credentials or SECRET_KEY) + "\n")
        return {
            "kind": "s3",
            "region": REGION,
            "path_style": True,
            "access_key_id_file": str(key_id),
            "secret_access_key_file": str(secret),
        }


class Gcs:
    """The front of gcs.py before versitygw; it knows one service account."""

    place = "GCS bucket"
    # Google throttles with either.
    throttled = (TOO_MANY, SLOW_DOWN)
    deletion = ("DELETE", "parquet")

    def __init__(self, program, folder, leaf=None):
        self.server = Versitygw(program, folder)
        self.server.make_bucket(BUCKET)
        self.identity = Identity()
        self.account = ServiceAccount()
        self.identity.trust(self.account)
        self.front = Front(self.server, self.identity, leaf)

    @property
    def port(self):
        return self.front.port

    def start(self):
        self.server.start()

    def is_up(self):
        return self.server.is_up()

    def stop(self):
        self.front.stop()
        self.server.stop()

    def credentials_of_a_stranger(self):
        return ServiceAccount("stranger")

    def accept(self, credentials):
        self.identity.trust(credentials)

    def settings(self, folder, credentials=None):
        key = pathlib.Path(folder) / "key.json"
        key.write_text((credentials or self.account).key_file() + "\n")
        return {"kind": "gcs", "secret_access_key_file": str(key)}


KINDS = {"s3": S3, "gcs": Gcs}


def settings(store, folder, endpoint=None, credentials=None, **more):
    """Configuration of a server whose files are in the bucket; `more` is about its store."""
    folder.mkdir(exist_ok=True)
    object_store = store.settings(folder, credentials) | {
        "bucket": BUCKET,
        "endpoint": endpoint or f"http://127.0.0.1:{store.port}",
        "allow_http": True,
        # A stalled request is given up soon.
        "request_timeout": "1s",
    }
    return {
        "storage": {"object_store": object_store | more},
        "ingest": {"flush_interval": "200ms", "flushed_grace": "100ms"},
        "upkeep": {"interval": "200ms", "gc_grace": "5s"},
        # Only what is in the bucket is looked at, not what was kept of it.
        "query": {"cache_memory_bytes": "0B", "cache_disk_bytes": "0B"},
    }
