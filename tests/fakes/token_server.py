"""A token server for a real registry (the distribution project's), in a thread: tokens of any life."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from tests.fakes.accounts import ISSUER, SERVICE
from tests.fakes.certificates import Certified, certified

#: for so long the registry takes a token that has expired
LEEWAY_S = 60


class TokenServer:
    """Issues tokens to USER with PASSWORD, that the registry refuses `life_s` after."""

    def __init__(self, user: str, password: str, *, life_s: float = 60.0) -> None:
        self.user, self.password, self.life_s = user, password, life_s
        self.issued = 0
        self.refused = 0
        self.signer: Certified = certified(ISSUER)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, document = outer.answer(self.path, self.headers.get("Authorization", ""))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, object]]:
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if authorization != f"Basic {wanted}":
            self.refused += 1
            return 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        return self.issue(parse_qs(urlsplit(path).query).get("scope", []))

    def issue(self, scopes: Sequence[str]) -> tuple[int, dict[str, object]]:
        """A token for whoever asks in this process."""
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": self.user,
            "aud": SERVICE,
            "iat": int(now) - 1,
            "nbf": int(now) - 1,
            "exp": int(now + self.life_s - LEEWAY_S),
            "jti": secrets.token_hex(8),
            "access": access,
        }
        self.issued += 1
        return 200, {"token": self.signer.sign_token(claims), "expires_in": self.life_s}

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
