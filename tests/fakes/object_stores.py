"""Google's and Azure's object stores as far as a reader meets them, in this process. They check signatures.

Written by the words of the services' documentation, not by what our client sends: a GCS XML API that takes
the self-signed JWT of a service account, and Azure's Get Blob with a shared key or a SAS token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from email.utils import formatdate

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.fakes.registry import HttpServer, ranged


class ObjectServer(HttpServer):
    """Objects at /BUCKET/KEY. `requests` has those that were let in."""

    def __init__(self, objects: dict[str, bytes], *, public: bool = False) -> None:
        super().__init__()
        self.objects = objects
        self.public = public
        self.requests: list[web.Request] = []
        self.app.router.add_get("/{path:.*}", self._serve)

    def refusal(self, request: web.Request) -> str:
        """Why a request is not let in; "" when it is."""
        raise NotImplementedError

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not self.public and (reason := self.refusal(request)):
            return web.Response(status=403, text=f"<Error><Code>{reason}</Code></Error>")
        self.requests.append(request)
        content = self.objects.get(request.match_info["path"])
        if content is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        response = ranged(request, content)
        response.headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
        response.headers["Last-Modified"] = formatdate(usegmt=True)
        return response


class FakeGcs(ObjectServer):
    """A service account's key is made anew for each."""

    EMAIL = "reader@project.test"

    def __init__(self, objects: dict[str, bytes], *, public: bool = False) -> None:
        super().__init__(objects, public=public)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def service_account(self) -> str:
        """Its key, as the JSON that one downloads."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        fields = {"type": "service_account", "client_email": self.EMAIL, "private_key_id": "1"}
        return json.dumps({**fields, "private_key": pem.decode()})

    def refusal(self, request: web.Request) -> str:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            return "AuthenticationRequired"
        signed, _, signature = token.rpartition(".")
        try:
            self._key.public_key().verify(
                _base64url(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return "SignatureDoesNotMatch"
        claims = json.loads(_base64url(signed.partition(".")[2]))
        if claims["iss"] != self.EMAIL or not claims["iat"] - 60 <= time.time() < claims["exp"]:
            return "ExpiredToken"
        return ""


class FakeAzure(ObjectServer):
    """https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key, and a SAS it knows."""

    ACCOUNT = "account"
    KEY = base64.b64encode(b"k" * 32).decode()
    SAS = "sv=2023-01-03&sp=r&sig=c2lnbmF0dXJl"

    def refusal(self, request: web.Request) -> str:
        if request.query_string:
            known = dict(pair.split("=", 1) for pair in self.SAS.split("&"))
            return "" if dict(request.query) == known else "AuthenticationFailed"
        signature = hmac.digest(base64.b64decode(self.KEY), self._to_sign(request).encode(), "sha256")
        expected = f"SharedKey {self.ACCOUNT}:{base64.b64encode(signature).decode()}"
        given = request.headers.get("Authorization", "")
        return "" if hmac.compare_digest(given, expected) else "AuthenticationFailed"

    def _to_sign(self, request: web.Request) -> str:
        names = [
            "Content-Encoding",
            "Content-Language",
            "Content-Length",
            "Content-MD5",
            "Content-Type",
            "Date",
        ]
        names += ["If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"]
        plain = [request.headers.get(name, "") for name in names]
        plain[2] = "" if plain[2] == "0" else plain[2]
        own = sorted((name.lower(), value) for name, value in request.headers.items())
        lines = [request.method, *plain, *(f"{n}:{v}" for n, v in own if n.startswith("x-ms-"))]
        return "\n".join([*lines, f"/{self.ACCOUNT}{request.raw_path}"])


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
