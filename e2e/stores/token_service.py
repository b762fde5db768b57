"""The services that exchange the token of a pod for credentials of a store, as Amazon and Azure do.

Kubernetes puts a token into a file of the pod and replaces it before it ends; the client sends what
is in the file, with whom it wants to act for, and gets credentials that end. The services here are
ours: they check every field that is sent, as their documentation says, but not the signature of the
pod's token, which is a matter between Kubernetes and the cloud.
"""

import base64
import collections
import datetime
import http.server
import json
import math
import secrets
import ssl
import threading
import time
import urllib.parse

ROLE = "arn:aws:iam::123456789012:role/lake"
TENANT = "5a1ed6a9-4ec4-4c37-9d0b-1d9b2bd0e1a7"
CLIENT = "0f5cb0c1-55ad-4a0e-8d4f-2b8a2f4e1c55"
BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


Keys = collections.namedtuple("Keys", ["key_id", "secret", "token"])


class TokenService(http.server.ThreadingHTTPServer):
    """What both have in common: whose token is taken, and which credentials were given out."""

    def __init__(self, token_file, leaf):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate_file, leaf.key_file)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.port = self.server_address[1]
        self.token_file = token_file
        # The one before is good for a while: it may be read just before it is replaced.
        self.tokens = collections.deque(maxlen=2)
        self.life_seconds = 3600
        self.is_willing = True
        # When each of the credentials ends, which tokens they were given for, what was wrong.
        self.handed_out, self.taken, self.refusals = {}, set(), collections.Counter()
        self.lock = threading.Lock()
        self.replace_token()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def replace_token(self):
        """As Kubernetes does it: a reader sees the old one or the new one."""
        self.tokens.append(secrets.token_urlsafe(32))
        new = self.token_file.with_suffix(".new")
        new.write_text(self.tokens[-1])
        new.rename(self.token_file)

    def answer(self, path, fields):
        """Status and content for a request with these fields."""
        token = fields.get(self.token_field)
        expected = self.expected | {self.token_field: token}
        with self.lock:
            if path != self.path or fields != expected:
                self.refusals["wrong request"] += 1
                return 400, f"expected {self.path} {expected}, found {path} {fields}".encode()
            if not self.is_willing or token not in self.tokens:
                self.refusals["not trusted"] += 1
                return self.refused
            self.taken.add(token)
            ends = time.time() + self.life_seconds
            credentials, content = self.credentials(ends)
            self.handed_out[credentials] = ends
        return 200, content

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        # Of two slashes at the beginning `path` has one.
        path, _, query = self.requestline.split(" ")[1].partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        fields = dict(urllib.parse.parse_qsl(query) + urllib.parse.parse_qsl(body))
        status, content = self.server.answer(path, fields)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Sts(TokenService):
    """AssumeRoleWithWebIdentity of Amazon; session_front.py takes the keys that it gives."""

    path = "/"
    token_field = "WebIdentityToken"
    refused = 403, b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    expected = {
        "Action": "AssumeRoleWithWebIdentity",
        "DurationSeconds": "3600",
        "RoleArn": ROLE,
        "RoleSessionName": "flightcluster",
        "Version": "2011-06-15",
    }

    def environment(self):
        return {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(self.token_file),
            "AWS_ROLE_ARN": ROLE,
            "AWS_ROLE_SESSION_NAME": "flightcluster",
            "AWS_ENDPOINT_URL_STS": f"https://127.0.0.1:{self.port}",
        }

    def credentials(self, ends):
        keys = Keys(f"ASIA{secrets.token_hex(8).upper()}", *(secrets.token_hex(20) for _ in "12"))
        end = datetime.datetime.fromtimestamp(ends, datetime.UTC)
        content = (
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
            f"<SessionToken>{keys.token}</SessionToken><SecretAccessKey>{keys.secret}</SecretAccessKey>"
            f"<Expiration>{end:%Y-%m-%dT%H:%M:%S.%fZ}</Expiration>"
            f"<AccessKeyId>{keys.key_id}</AccessKeyId>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
        return keys, content.encode()


class Entra(TokenService):
    """The token endpoint of a tenant of Azure, in the flow with a federated credential.

    Azurite looks at issuer, audience and times of the tokens, and not at their signature.
    """

    path = f"/{TENANT}/oauth2/v2.0/token"
    token_field = "client_assertion"
    refused = 401, b'{"error": "invalid_client"}'
    expected = {
        "client_id": CLIENT,
        "client_assertion_type": BEARER,
        "scope": "https://storage.azure.com/.default",
        "grant_type": "client_credentials",
    }

    def environment(self):
        # The same variables as the webhook of Azure sets in a pod.
        return {
            "AZURE_FEDERATED_TOKEN_FILE": str(self.token_file),
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_AUTHORITY_HOST": f"https://127.0.0.1:{self.port}/",
        }

    def credentials(self, ends):
        claims = {
            "aud": "https://storage.azure.com",
            "iss": f"https://sts.windows.net/{TENANT}/",
            "jti": secrets.token_hex(8),
            "iat": int(ends) - self.life_seconds,
            "nbf": int(ends) - self.life_seconds,
            # Not before they end by our own clock.
            "exp": math.ceil(ends),
        }
        parts = ({"alg": "RS256", "typ": "JWT"}, claims, "not signed")
        words = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
        token = b".".join(word.rstrip(b"=") for word in words).decode()
        fields = {"token_type": "Bearer", "expires_in": self.life_seconds, "access_token": token}
        return token, json.dumps(fields).encode()
