"""Who may use the GCS front: service accounts by their keys, and machines by tokens they are given.

A service account signs a token with its private key and sends that as it is. A machine or pod
without a key asks the metadata service for a token, and again before it ends. Both are what
`object_store` does; the exchange of a signed token for another one it does not do.
"""

import base64
import binascii
import collections
import json
import secrets
import threading
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# Google takes no token that was signed for longer than an hour, nor one from the future; clocks
# may differ by some seconds.
LONGEST_SECONDS = 3600
SKEW_SECONDS = 30


class ServiceAccount:
    """An account with a new RSA key; `key_file` is what the cloud's console gives for download."""

    def __init__(self, name="rows"):
        self.email = f"{name}@project.iam.gserviceaccount.com"
        self.key_id = secrets.token_hex(20)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def key_file(self, **more):
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        fields = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": self.key_id,
            "private_key": pem.decode(),
            "client_email": self.email,
            "token_uri": "https://oauth2.googleapis.com/token",
        }
        return json.dumps(fields | more)

    def token(self, **more):
        """A token as `object_store` signs it, with other claims if `more` says so."""
        now = int(time.time())
        claims = {"iss": self.email, "sub": self.email, "scope": SCOPE}
        claims |= {"iat": now, "exp": now + LONGEST_SECONDS} | more
        head = {"alg": "RS256", "typ": "JWT", "kid": self.key_id}
        message = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
        seal = self.key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{message}.{encode(seal)}"


class Identity:
    """Decides whether the bearer of a token may use the store, and counts why one may not."""

    def __init__(self):
        self.accounts = {}
        self.handed_out = {}
        self.refusals = collections.Counter()
        self.clock = time.time
        # Life of the tokens of the metadata service.
        self.life_seconds = LONGEST_SECONDS
        self.lock = threading.Lock()

    def trust(self, account):
        self.accounts[account.key_id] = account

    def distrust(self, account):
        del self.accounts[account.key_id]

    def hand_out(self):
        """What the metadata service answers: a new token and its life."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        with self.lock:
            self.handed_out[token] = self.clock() + self.life_seconds
        fields = {"access_token": token, "expires_in": self.life_seconds, "token_type": "Bearer"}
        return json.dumps(fields).encode()

    def refusal(self, authorization):
        """Why a request with this header is refused; None if it is not."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            reason = "no token"
        elif token in self.handed_out:
            reason = None if self.clock() < self.handed_out[token] else "expired"
        else:
            reason = self.refusal_of_signed(token)
        if reason:
            with self.lock:
                self.refusals[reason] += 1
        return reason

    def refusal_of_signed(self, token):
        try:
            head, claims, seal = token.split(".")
            fields, rights = json.loads(decode(head)), json.loads(decode(claims))
            account = self.accounts.get(fields["kid"])
            if account is None:
                return "unknown key"
            message = f"{head}.{claims}".encode()
            public = account.key.public_key()
            public.verify(decode(seal), message, padding.PKCS1v15(), hashes.SHA256())
            begins, ends = rights["iat"], rights["exp"]
            expected = ("RS256", account.email, account.email, SCOPE)
            found = (fields["alg"], rights["iss"], rights["sub"], rights["scope"])
        except InvalidSignature:
            return "wrong signature"
        except (binascii.Error, KeyError, TypeError, ValueError):
            return "no token of ours"
        if found != expected or ends - begins > LONGEST_SECONDS:
            return "wrong claims"
        if not begins - SKEW_SECONDS <= self.clock() < ends:
            return "expired"
        return None


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
