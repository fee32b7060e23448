"""Refusals, as the Distribution specification words them."""

from __future__ import annotations

from http import HTTPStatus

_STATUS = {
    "BLOB_UNKNOWN": HTTPStatus.NOT_FOUND,
    "BLOB_UPLOAD_INVALID": HTTPStatus.BAD_REQUEST,
    "BLOB_UPLOAD_UNKNOWN": HTTPStatus.NOT_FOUND,
    "DIGEST_INVALID": HTTPStatus.BAD_REQUEST,
    "MANIFEST_BLOB_UNKNOWN": HTTPStatus.BAD_REQUEST,
    "MANIFEST_INVALID": HTTPStatus.BAD_REQUEST,
    "MANIFEST_UNKNOWN": HTTPStatus.NOT_FOUND,
    "NAME_INVALID": HTTPStatus.BAD_REQUEST,
    "NAME_UNKNOWN": HTTPStatus.NOT_FOUND,
    "RANGE_INVALID": HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "SIZE_INVALID": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "TOOMANYREQUESTS": HTTPStatus.TOO_MANY_REQUESTS,
    "UNSUPPORTED": HTTPStatus.METHOD_NOT_ALLOWED,
}


class Refusal(Exception):
    """A request is refused. `headers` go with the answer."""

    def __init__(self, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers or {}

    @property
    def status(self) -> int:
        return int(_STATUS[self.code])

    @property
    def document(self) -> dict[str, object]:
        return {"errors": [{"code": self.code, "message": self.message}]}
