"""Name content by a hash."""

from __future__ import annotations

import hashlib
import json


def content_hash(value: object) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of `value` as canonical JSON (sorted keys)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
