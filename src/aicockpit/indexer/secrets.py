"""What is never sent unless a `.aicockpitignore` says so: files that hold keys, passwords or tokens.

The names are patterns as in a `.gitignore`, compared without regard to case; docs/indexing.md shows the same list.
"""

from __future__ import annotations

import re

NAMES: tuple[str, ...] = (
    ".env*",
    "*.env",
    ".envrc",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".htpasswd",
    ".dockercfg",
    ".docker/config.json",
    ".kube/config",
    "kubeconfig",
    "*.kubeconfig",
    ".ssh/",
    ".gnupg/",
    ".aws/",
    ".azure/",
    ".config/gcloud/",
    ".vault-token",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "*.pem",
    "*.key",
    "*.p8",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.gpg",
    "*.tfstate",
    "*.tfstate.backup",
    "*.tfvars",
    "credentials",
    "!credentials/",
    "credentials.json",
    "credentials.y*ml",
    "client_secret*.json",
    "service-account*.json",
    "service_account*.json",
    "secrets.json",
    "secrets.toml",
    "secrets.y*ml",
    "secret.y*ml",
)

_KEY = re.compile(rb"\s*(?:-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-|openssh-key-v1\0)")


def is_private_key(head: bytes) -> bool:
    """A file that begins as a private key does, whatever its name. `head`: its first bytes."""
    return _KEY.match(head.removeprefix(b"\xef\xbb\xbf")) is not None
