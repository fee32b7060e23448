"""Which manifests a repository takes, and what is said of them to those who ask for referrers."""

from __future__ import annotations

from typing import Any

from rafs.oci.descriptor import INDEXES, MANIFESTS, OCI_INDEX, Descriptor, InvalidImage, parse_document
from vhostfs.registry_server.errors import Refusal
from vhostfs.registry_server.store import Store

MAX_ENTRIES = 10_000


def check(store: Store, name: str, content: bytes, media_type: str) -> str | None:
    """Raise Refusal for what is no manifest, or names content that `name` does not have.

    Return the digest of the subject, if there is one.
    """
    try:
        document = parse_document(content, "the manifest")
        if document.get("mediaType", media_type) != media_type:
            raise InvalidImage(f"the manifest is a {document['mediaType']!r}, sent as {media_type!r}")
        needed = list(_needed(document, media_type))
        subject = document.get("subject")
        parsed = None if subject is None else Descriptor.parse(subject, "subject")
    except InvalidImage as error:
        raise Refusal("MANIFEST_INVALID", str(error)) from None
    for one in needed:
        if not one.more.get("urls") and not store.has_blob(name, one.digest):
            raise Refusal("MANIFEST_BLOB_UNKNOWN", f"push {one.digest} to {name} first")
    return parsed.digest if parsed else None


def _needed(document: dict[str, Any], media_type: str) -> list[Descriptor]:
    if media_type in INDEXES:
        raw = [("manifests", document.get("manifests"))]
    elif media_type in MANIFESTS:
        raw = [("config", [document.get("config")]), ("layers", document.get("layers"))]
    else:
        raise InvalidImage(f"{media_type[:100]!r} is no type of a manifest")
    found = []
    for what, entries in raw:
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
            raise InvalidImage(f"{what} is no list, or a longer one than {MAX_ENTRIES}")
        found += [Descriptor.parse(entry, f"{what} {number}") for number, entry in enumerate(entries)]
    return found


def referrers_index(manifests: list[tuple[str, str, bytes]], artifact_type: str | None) -> dict[str, Any]:
    """The answer to who refers to a manifest: an index of (digest, media type, content)."""
    entries = []
    for digest, media_type, content in manifests:
        document = parse_document(content, digest)
        config = document.get("config")
        kind = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
        if artifact_type not in (None, kind):
            continue
        entry = {"mediaType": media_type, "digest": digest, "size": len(content)}
        if kind:
            entry["artifactType"] = kind
        if document.get("annotations"):
            entry["annotations"] = document["annotations"]
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
