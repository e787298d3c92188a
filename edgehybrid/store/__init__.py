"""Keep results on disk so that none is lost or made twice: atomic files, a stage cache, bundles.

Crash safety rests on three rules. A file appears under its final name only by rename, after its bytes were
fsynced. A stage's folder appears only by rename, complete. Locks are `flock`s, which the kernel drops with
the process that held them. So `kill -9` at any moment leaves old content, new content, or a leftover under
a temporary name that the next holder of the same lock removes.
"""

from edgehybrid.store.bundle import MANIFEST, Bundle, check_output, may_be_bundle, no_bundle, open_bundle, write_bundle
from edgehybrid.store.cache import run_stage
from edgehybrid.store.documents import decode, to_json
from edgehybrid.store.files import Content, cache_root, guarding, locked, sha256_of, write_atomic

__all__ = [
    "MANIFEST",
    "Bundle",
    "Content",
    "cache_root",
    "check_output",
    "decode",
    "guarding",
    "locked",
    "may_be_bundle",
    "no_bundle",
    "open_bundle",
    "run_stage",
    "sha256_of",
    "to_json",
    "write_atomic",
    "write_bundle",
]
