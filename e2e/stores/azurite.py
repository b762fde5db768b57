"""A real server of Azure Blob Storage: Azurite, Microsoft's own emulator, over a folder.

It is a program of Microsoft's and knows the API with its errors, but it is not their service: it
throttles nobody, keeps uncommitted blocks for as long as it lives, and looks at the claims of a
bearer token and not at its signature.
"""

import base64
import datetime
import hmac
import http.client
import os
import pathlib
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.parse
import xml.etree.ElementTree as xml
from email.utils import formatdate

ACCOUNT = "lakefiles"
VERSION = "2023-11-03"


def new_key():
    return base64.b64encode(secrets.token_bytes(64)).decode()


class Azurite:
    """One account with one key. With `leaf` it speaks TLS, and takes bearer tokens as well."""

    def __init__(self, program, folder, leaf=None):
        self.program, self.folder, self.leaf = program, pathlib.Path(folder), leaf
        self.key = new_key()
        self.folder.mkdir(parents=True)
        self.log = self.folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    def start(self):
        command = [self.program, "--blobHost", "127.0.0.1", "--blobPort", self.port]
        command += ["--location", self.folder, "--disableTelemetry"]
        if self.leaf:
            command += ["--cert", self.leaf.certificate_file, "--key", self.leaf.key_file]
            command += ["--oauth", "basic"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"},
            )

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self):
        """It writes down which blobs there are when it is asked to end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise

    def make_bucket(self, name):
        status, content = self.ask("PUT", name, restype="container")
        assert status == 201, content

    def objects(self, bucket):
        """Names of the blobs; one page of the answer is 5000."""
        status, content = self.ask("GET", bucket, restype="container", comp="list")
        assert status == 200, content
        answer = xml.fromstring(content)
        assert not answer.findtext("NextMarker"), "there are more blobs than in one page"
        return sorted(each.text for each in answer.findall("Blobs/Blob/Name"))

    def ask(self, method, bucket, **query):
        """Answer (status, content) to a signed request."""
        path = f"/{ACCOUNT}/{bucket}"
        if self.leaf:
            context = ssl.create_default_context(cafile=self.leaf.authority_file)
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=30, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            url = f"{path}?{urllib.parse.urlencode(query)}"
            connection.request(method, url, headers=signature(self.key, method, path, query))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def signature(key, method, path, query):
    """Headers that sign a request without a body (Shared Key)."""
    own = {"x-ms-date": formatdate(time.time(), usegmt=True), "x-ms-version": VERSION}
    # Twelve standard headers, none of which the request has.
    lines = [method, *[""] * 11]
    lines += [f"{name}:{own[name]}" for name in sorted(own)]
    lines += [f"/{ACCOUNT}{path}"] + [f"{name}:{query[name]}" for name in sorted(query)]
    text = "\n".join(lines)
    return own | {"Authorization": f"SharedKey {ACCOUNT}:{seal(key, text)}"}


def shared_access(key, bucket):
    """A signature to be put into URLs: for an hour, for what is in the container."""
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    fields = {"sp": "racwdl", "se": f"{ends:%Y-%m-%dT%H:%M:%SZ}", "sv": VERSION, "sr": "c"}
    # No beginning, policy, addresses, protocols, snapshot, scope and headers of the answer.
    lines = [fields["sp"], "", fields["se"], f"/blob/{ACCOUNT}/{bucket}", "", "", "", VERSION, "c"]
    return urllib.parse.urlencode(fields | {"sig": seal(key, "\n".join([*lines, *[""] * 7]))})


def seal(key, text):
    return base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), "sha256")).decode()
