"""A real S3 server over a folder, and requests to it that are signed as S3 wants them."""

import datetime
import hashlib
import hmac
import http.client
import os
import pathlib
import socket
import subprocess
import urllib.parse

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"
# The body of a request is not part of its signature.
UNSIGNED = "UNSIGNED-PAYLOAD"


def files_below(folder):
    """All files; a folder that the server removes meanwhile, as the last object went, has none."""
    for parent, _, names in os.walk(folder):
        yield from (pathlib.Path(parent) / name for name in names)


class Versitygw:
    """versitygw over a folder: a bucket is a folder in it. With `leaf` it speaks TLS."""

    def __init__(self, program, folder, leaf=None):
        self.program, self.folder, self.leaf = program, pathlib.Path(folder), leaf
        self.secret = SECRET_KEY
        self.buckets = self.folder / "buckets"
        self.buckets.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    def start(self):
        command = [self.program, "--access", ACCESS_KEY, "--secret", self.secret]
        command += ["--region", REGION, "--port", f"127.0.0.1:{self.port}"]
        if self.leaf:
            command += ["--cert", self.leaf.certificate_file, "--key", self.leaf.key_file]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in [*command, "posix", self.buckets]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def make_bucket(self, name):
        (self.buckets / name).mkdir()

    def objects(self, bucket):
        """Keys of the bucket; the server's own notes are left out."""
        root = self.buckets / bucket
        keys = (str(path.relative_to(root)) for path in files_below(root))
        return sorted(key for key in keys if not key.startswith(".sgwtmp"))

    def unfinished_uploads(self, bucket):
        """Parts that were taken for an upload that was neither completed nor aborted."""
        notes = self.buckets / bucket / ".sgwtmp" / "multipart"
        return sorted(map(str, files_below(notes)))

    def ask(self, method, path, query=(), headers=None, body=b""):
        """Answer (status, headers, content) to a signed request; `path` is not yet escaped."""
        host = f"127.0.0.1:{self.port}"
        path = urllib.parse.quote(path, safe="/~")
        query = canonical(query)
        headers = dict(headers or {}) | signature(self.secret, method, host, path, query, headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            url = f"{path}?{query}" if query else path
            connection.request(method, url, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def canonical(query):
    """Parameters as they are signed; they are sent in the same way."""
    return urllib.parse.urlencode(sorted(query), quote_via=urllib.parse.quote, safe="~")


def signature(secret, method, host, path, query, headers):
    """Headers that sign a request of the one account with its `x-amz-` headers."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    own = {"host": host, "x-amz-content-sha256": UNSIGNED, "x-amz-date": now}
    signed = own | {k: v for k, v in (headers or {}).items() if k.startswith("x-amz-")}
    return own | {"authorization": authorization(ACCESS_KEY, secret, method, path, query, signed)}


def authorization(key_id, secret, method, path, query, signed, payload=UNSIGNED):
    """The header with the signature (AWS Signature Version 4) of a request with these headers."""
    scope = f"{signed['x-amz-date'][:8]}/{REGION}/s3/aws4_request"
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = "\n".join([method, path, query, lines, names, payload])
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", signed["x-amz-date"], scope, digest])
    seal = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}"
    return f"{credential}, SignedHeaders={names}, Signature={seal}"
