"""Every random number is a pure function of what it is for, so a run resumes bit for bit from any step."""

from __future__ import annotations

import hashlib


def seed_for(*parts: object) -> int:
    """Seed in [0, 2**63) that depends on every part, e.g. ``seed_for(seed, "crop", epoch, step, rank)``.

    Parts are joined through SHA-256 rather than added, so (seed 1, epoch 2) and (seed 2, epoch 1) differ.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
