"""The XML API of Google Cloud Storage, as far as `object_store` speaks it, before an S3 server.

What it adds to S3 is what makes GCS another service: bearer tokens (gcs_identity.py), generations
and preconditions on them, a 404 for the deletion of what is not there, its names of headers, and
the metadata service that gives tokens to machines and pods. What it does not know it refuses with
501, so that a request that means something else at Google can't pass unseen.

What it does not prove: it is not Google's server. It was written from the documentation and from
the client's source, beside the program under test. Quotas, consistency, limits of names, HTTP/2,
the texts of errors and the speed are versitygw's or nobody's, and not Google's. Known differences:

- A generation is drawn when an upload of parts begins, not when it is complete; lists have none.
- Writes go one after the other.
- A completion that is repeated is refused. What Google does is not known here; this is the harder
  of the two for a client.
- Copies, metadata of objects and signed URLs are refused: the product uses none.
- The exchange of a refresh token (`authorized_user`) is only done with Google's own address, and is
  not tested.
"""

import http.server
import ssl
import threading
import time
import urllib.parse

TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
GENERATION = "x-amz-meta-generation"
CONDITION = "x-goog-if-generation-match"
# Headers of a read that mean the same at S3.
READ_HEADERS = ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
LIST_QUERY = {"list-type", "prefix", "delimiter", "continuation-token", "start-after", "max-keys"}
PASSED_ON = ("Content-Type", "Content-Range", "ETag", "Last-Modified")


class Front(http.server.ThreadingHTTPServer):
    """Speaks GCS on a port of its own and S3 to `server`; with `leaf` it speaks TLS."""

    def __init__(self, server, identity, leaf=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.store, self.identity = server, identity
        self.writing = threading.Lock()
        self.newest = 0
        self.completed = set()
        if leaf:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(leaf.certificate_file, leaf.key_file)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def next_generation(self):
        """A number that grows: Google's are microseconds too. Called by the one who is writing."""
        self.newest = max(self.newest + 1, time.time_ns() // 1000)
        return str(self.newest)

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. A body that ends early ends it, and nothing of it is stored."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, *_):
        """Says nothing: the answers are in the log of the program under test."""

    def do_GET(self):
        self.serve()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        if url.path == TOKEN_PATH:
            return self.give_token()
        reason = self.server.identity.refusal(self.headers.get("Authorization"))
        if reason:
            return self.refuse(401, "AuthenticationRequired", reason)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        bucket, _, key = urllib.parse.unquote(url.path).removeprefix("/").partition("/")
        action = ACTIONS.get((self.command, bool(key), what_is_asked(query)))
        foreign = {name.lower() for name in self.headers if name.lower().startswith("x-goog-")}
        if action is None or foreign - {CONDITION} or (foreign and action is not Handler.put):
            return self.refuse(501, "NotImplemented", f"{self.command} {self.path} {foreign}")
        action(self, f"/{bucket}/{key}" if key else f"/{bucket}", query, body)

    def give_token(self):
        if self.headers.get("Metadata-Flavor") != "Google":
            return self.refuse(403, "Forbidden", "Metadata-Flavor is missing")
        self.answer(200, {"Content-Type": "application/json"}, self.server.identity.hand_out())

    # The actions: path below the S3 server, query of the request, body.

    def read(self, path, query, body):
        wanted = {name: self.headers[name] for name in READ_HEADERS if name in self.headers}
        status, headers, content = self.ask(self.command, path, headers=wanted)
        if query.get("generation", headers[GENERATION]) != headers[GENERATION]:
            return self.refuse(404, "NoSuchKey", "that generation is gone")
        self.pass_on(status, headers, content)

    def list_objects(self, path, query, body):
        self.pass_on(*self.ask("GET", path, query.items()))

    def put(self, path, query, body):
        conditions = {}
        with self.server.writing:
            match self.headers.get(CONDITION):
                case None:
                    pass
                case "0":
                    conditions["If-None-Match"] = "*"
                case generation:
                    status, headers, _ = self.ask("HEAD", path)
                    if status != 200 or headers[GENERATION] != generation:
                        return self.refuse(412, "PreconditionFailed", "another generation")
            headers = conditions | {GENERATION: self.server.next_generation()}
            status, found, content = self.ask("PUT", path, headers=headers, body=body)
        found[GENERATION] = headers[GENERATION]
        self.pass_on(status, found, content)

    def put_part(self, path, query, body):
        self.pass_on(*self.ask("PUT", path, query.items(), body=body))

    def begin_upload(self, path, query, body):
        with self.server.writing:
            headers = {GENERATION: self.server.next_generation()}
        self.pass_on(*self.ask("POST", path, query.items(), headers))

    def complete_upload(self, path, query, body):
        with self.server.writing:
            # versitygw answers a repeated completion as the first one.
            if query["uploadId"] in self.server.completed:
                return self.refuse(404, "NoSuchUpload", "The requested upload was not found.")
            status, headers, content = self.ask("POST", path, query.items(), body=body)
            if status == 200:
                self.server.completed.add(query["uploadId"])
                headers[GENERATION] = self.ask("HEAD", path)[1][GENERATION]
        self.pass_on(status, headers, content)

    def abort_upload(self, path, query, body):
        self.pass_on(*self.ask("DELETE", path, query.items()))

    def delete(self, path, query, body):
        with self.server.writing:
            # S3 is content when there is nothing to delete; Google is not.
            if self.ask("HEAD", path)[0] == 404:
                return self.refuse(404, "NoSuchKey", "The specified key does not exist.")
            self.pass_on(*self.ask("DELETE", path))

    def ask(self, *request, **more):
        return self.server.store.ask(*request, **more)

    def pass_on(self, status, headers, content):
        """The S3 server's answer under Google's names."""
        kept = {name: headers[name] for name in PASSED_ON if name in headers}
        if headers[GENERATION] and status < 300:
            kept["x-goog-generation"] = headers[GENERATION]
            kept["x-goog-metageneration"] = "1"
        if self.command == "HEAD":
            kept["Content-Length"] = headers["Content-Length"]
        self.answer(status, kept, content)

    def refuse(self, status, code, message):
        content = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code>"
        content += f"<Message>{message}</Message></Error>"
        self.answer(status, {"Content-Type": "application/xml"}, content.encode())

    def answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def what_is_asked(query):
    """The kind of request that a query makes; None for one that is not known."""
    names = set(query)
    if "list-type" in names and names <= LIST_QUERY and query["list-type"] == "2":
        return "list"
    known = {
        frozenset(): "object",
        frozenset({"generation"}): "object",
        frozenset({"uploads"}): "uploads",
        frozenset({"uploadId"}): "upload",
        frozenset({"uploadId", "partNumber"}): "part",
    }
    return known.get(frozenset(names))


# (method, is a key named, kind of the query) -> what is done.
ACTIONS = {
    ("GET", False, "list"): Handler.list_objects,
    ("GET", True, "object"): Handler.read,
    ("HEAD", True, "object"): Handler.read,
    ("PUT", True, "object"): Handler.put,
    ("PUT", True, "part"): Handler.put_part,
    ("POST", True, "uploads"): Handler.begin_upload,
    ("POST", True, "upload"): Handler.complete_upload,
    ("DELETE", True, "upload"): Handler.abort_upload,
    ("DELETE", True, "object"): Handler.delete,
}
