"""A request of the API that is answered by an error."""

from __future__ import annotations


class ApiError(Exception):
    """Answered with `status` and a body of the two members that clients insist on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def error_body(message: str) -> dict[str, str]:
    """The code is nydusd's only one; its clients show the message."""
    return {"code": "UNDEFINED", "message": message}
