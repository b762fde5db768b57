"""The object stores that the scenarios run over, behind one face.

A kind has the ports, buckets and credentials of its service, and makes the settings with which the
binary uses it. Breaking the way to it is proxy.py's business.
"""

import os
import pathlib

from azurite import ACCOUNT, Azurite, new_key, shared_access
from gcs import Front
from gcs_identity import Identity, ServiceAccount
from proxy import SERVER_BUSY, SLOW_DOWN, TOO_MANY
from versitygw import ACCESS_KEY, REGION, SECRET_KEY, Versitygw

BUCKET = "rows"
VERSITYGW = os.environ.get("VERSITYGW", "versitygw")
AZURITE = os.environ.get("AZURITE", "azurite-blob")

# Requests to an upload of parts that fail in turn: fault, method, what its target holds.
PARTS_THAT_FAIL = (
    ("unanswered", "POST", "?uploads"),
    ("cut upload", "PUT", "partNumber=2"),
    ("throttled", "PUT", "partNumber=1"),
    ("refused", "PUT", "partNumber=2"),
    ("stalled", "PUT", "partNumber=2"),
    ("broken", "POST", "?uploadId="),
    ("unanswered", "POST", "?uploadId="),
    ("refused", "POST", "?uploadId="),
)


class S3:
    """versitygw as it is."""

    place = "S3 bucket"
    throttled = (SLOW_DOWN,)
    # Method of a request that deletes objects, and what its target holds.
    deletion = ("POST", "?delete")
    parts_that_fail = PARTS_THAT_FAIL
    # What the endpoint has after host and port.
    path = ""

    def __init__(self, folder, leaf=None):
        self.server = Versitygw(VERSITYGW, folder, leaf)
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

    def environments(self, folder):
        """Each of them says the same as the files of the settings."""
        return [{"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}]


class Gcs:
    """The front of gcs.py before versitygw; it knows one service account."""

    place = "GCS bucket"
    # Google throttles with either.
    throttled = (TOO_MANY, SLOW_DOWN)
    deletion = ("DELETE", "parquet")
    parts_that_fail = PARTS_THAT_FAIL
    path = ""

    def __init__(self, folder, leaf=None):
        self.server = Versitygw(VERSITYGW, folder)
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

    def environments(self, folder):
        return [{"GOOGLE_APPLICATION_CREDENTIALS": str(pathlib.Path(folder) / "key.json")}]


class Azure:
    """Azurite as it is; the name of the account is part of the path there, not of the host."""

    place = "Azure container"
    throttled = (SERVER_BUSY,)
    deletion = ("POST", "comp=batch")
    # Nothing begins such an upload, and nothing ends it when it is given up.
    parts_that_fail = (
        ("unanswered", "PUT", "comp=block&"),
        ("cut upload", "PUT", "comp=block&"),
        ("throttled", "PUT", "comp=block&"),
        ("refused", "PUT", "comp=block&"),
        ("stalled", "PUT", "comp=block&"),
        ("broken", "PUT", "comp=blocklist"),
        ("unanswered", "PUT", "comp=blocklist"),
        ("refused", "PUT", "comp=blocklist"),
    )
    path = f"/{ACCOUNT}"

    def __init__(self, folder, leaf=None):
        self.server = Azurite(AZURITE, folder, leaf)
        self.has_container = False

    @property
    def port(self):
        return self.server.port

    def start(self):
        self.server.start()

    def is_up(self):
        if self.server.is_up() and not self.has_container:
            self.server.make_bucket(BUCKET)
            self.has_container = True
        return self.has_container

    def stop(self):
        self.server.stop()

    def credentials_of_a_stranger(self):
        return new_key()

    def accept(self, credentials):
        self.server.stop()
        self.server.key = credentials
        self.server.start()

    def settings(self, folder, credentials=None):
        account, key = folder / "account", folder / "key"
        account.write_text(ACCOUNT + "\n")
        key.write_text((credentials or self.server.key) + "\n")
        return {
            "kind": "azure",
            "access_key_id_file": str(account),
            "secret_access_key_file": str(key),
        }

    def environments(self, folder):
        account = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT}
        return [
            account | {"AZURE_STORAGE_ACCOUNT_KEY": self.server.key},
            account | {"AZURE_STORAGE_SAS_KEY": shared_access(self.server.key, BUCKET)},
        ]


KINDS = {"s3": S3, "gcs": Gcs, "azure": Azure}


def settings(store, folder, endpoint=None, credentials=None, **more):
    """Configuration of a server whose files are in the bucket; `more` is about its store."""
    folder.mkdir(exist_ok=True)
    object_store = store.settings(folder, credentials) | {
        "bucket": BUCKET,
        "endpoint": (endpoint or f"http://127.0.0.1:{store.port}") + store.path,
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
