"""S3 for keys that end: before versitygw, which knows no keys of a session.

A request is let through when its session token is one that was given out and has not ended, and
when its signature was made with the secret key that came with that token. It is then signed anew
with the key that versitygw knows. Only what these tests need is passed on. The front does not look
at policies of the role: whoever has its keys may do everything.
"""

import http.server
import threading
import time
import urllib.parse

from proxy import failure
from versitygw import authorization, canonical

PASSED_ON = ("Content-Type", "Range", "If-Match", "If-None-Match", "Content-MD5")
ANSWERED = ("Content-Type", "Content-Range", "ETag", "Last-Modified")


class SessionFront(http.server.ThreadingHTTPServer):
    """`service` is the Sts whose keys are good here."""

    def __init__(self, server, service):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.store, self.service = server, service
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def refusal(self, request, path, query):
        """Why a request is refused; None if it is not."""
        sessions = {keys.token: (keys, end) for keys, end in list(self.service.handed_out.items())}
        keys, end = sessions.get(request.headers["x-amz-security-token"], (None, 0))
        if keys is None:
            return "InvalidToken"
        if time.time() >= end:
            return "ExpiredToken"
        told = request.headers["Authorization"]
        names = told.partition("SignedHeaders=")[2].partition(",")[0]
        if not {"host", "x-amz-date", "x-amz-security-token"} <= set(names.split(";")):
            return "AccessDenied"
        signed = {name: request.headers[name] for name in names.split(";")}
        payload = request.headers["x-amz-content-sha256"]
        made = authorization(
            keys.key_id, keys.secret, request.command, path, canonical(query), signed, payload
        )
        words = [word.strip(",") for word in told.split()]
        return (
            None if words == [word.strip(",") for word in made.split()] else "SignatureDoesNotMatch"
        )

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self):
        path, _, query = self.path.partition("?")
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if reason := self.server.refusal(self, path, pairs):
            self.server.service.refusals[reason] += 1
            self.close_connection = True
            return self.wfile.write(failure("403 Forbidden", reason, "refused by the front"))
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        status, answered, content = self.server.store.ask(
            self.command, urllib.parse.unquote(path), pairs, headers, body
        )
        self.send_response(status)
        for name in ANSWERED:
            if name in answered:
                self.send_header(name, answered[name])
        length = answered["Content-Length"] if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        return self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def log_message(self, *_):
        pass
