"""What is never sent unless a `.aicockpitignore` says so: files that hold keys, passwords or tokens.

The names are patterns as in a `.gitignore`, compared without regard to case; docs/indexing.md shows the same list.
"""

from __future__ import annotations

import re

NAMES: tuple[str, ...] = (
    ".env*",
    "*.env",
    ".envrc",
    ".flaskenv",
    "env.local",
    "env.production",
    ".dev.vars",
    "local.settings.json",
    ".netrc",
    "_netrc",
    ".authinfo*",
    ".git-credentials",
    "**/gh/hosts.yml",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    "pip.conf",
    "**/.pip/pip.conf",
    "auth.json",
    "NuGet.Config",
    "settings-security.xml",
    "**/.m2/settings.xml",
    "**/.gradle/gradle.properties",
    "**/.cargo/credentials*",
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    "*.htpasswd",
    ".htpasswd",
    "htpasswd",
    ".dockercfg",
    ".dockerconfigjson",
    "**/.docker/config.json",
    "**/.kube/config",
    "kubeconfig",
    "kubeconfig.y*ml",
    "*.kubeconfig",
    "k3s.yaml",
    "admin.conf",
    ".ssh/",
    ".gnupg/",
    ".aws/",
    ".azure/",
    "**/.config/gcloud/",
    ".snowsql/",
    ".netlify/",
    ".vercel/",
    ".vault-token",
    ".vault_pass",
    "vault_pass.txt",
    ".s3cfg",
    ".boto",
    "rclone.conf",
    ".databrickscfg",
    ".sentryclirc",
    ".ftpconfig",
    "sftp-config.json",
    "wp-config.php",
    "*.pubxml",
    "kaggle.json",
    "**/huggingface/token",
    "token.json",
    "token.pickle",
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
    "*.bks",
    "*.keystore",
    "*.kdb",
    "*.kdbx",
    "*.asc",
    "*.pgp",
    "*.gpg",
    "*.agekey",
    "*.ovpn",
    "*.tfstate",
    "*.tfstate.*",
    "*.tfvars",
    "*.tfvars.json",
    ".terraformrc",
    "terraform.rc",
    "credentials.tfrc.json",
    "credentials",
    "!credentials/",
    "credentials.json",
    "credentials.csv",
    "credentials.y*ml",
    "rootkey.csv",
    "*accessKeys.csv",
    "client_secret*.json",
    "application_default_credentials.json",
    "*service-account*.json",
    "*service_account*.json",
    "*firebase-adminsdk*.json",
    "google-services.json",
    ".secret",
    ".secrets",
    "secret.json",
    "secret.y*ml",
    "secrets.ini",
    "secrets.json",
    "secrets.properties",
    "secrets.toml",
    "secrets.txt",
    "secrets.y*ml",
    ".*_history",
)

_KEY = re.compile(rb"\s*(?:-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-|openssh-key-v1\0)")
_INSIDE = re.compile(
    rb'-----BEGIN [A-Z0-9 ]*PRIVATE KEY|AGE-SECRET-KEY-1|"type"\s*:\s*"service_account"|client-key-data:'
)
# Each of these has one of them in it: found at a hundred times the speed of an expression.
_MARKS = (b"PRIVATE KEY", b"AGE-SECRET-KEY-1", b'"service_account"', b"client-key-data:")
# Code speaks of keys, compares with their beginnings and writes them: only what begins as one is one there.
_SOURCE = re.compile(
    rb".*\.(?:[chm]|cc|cpp|cxx|hh|hpp|mm|cu|pyi?|rs|go|java|kts?|scala|groovy|swift|cs|fs|vb|[cm]?js|jsx|[cm]?ts|tsx|vue"
    rb"|svelte|rb|php|p[lm]|lua|r|jl|exs?|erl|hrl|hs|mli?|clj[cs]?|dart|zig|nim|sh|bash|zsh|fish|ps1|bat|cmd|sql)",
    re.IGNORECASE | re.DOTALL,
)
# Names of these rules: what was judged under others is judged again.
RULES = b"\0".join((b"whole", *(part.pattern for part in (_KEY, _INSIDE, _SOURCE))))


def holds_key(path: bytes, data: bytes) -> bool:
    """A file that begins as a private key does, whatever its name; one that is no source code and holds a key."""
    if _KEY.match(data, 3 if data.startswith(b"\xef\xbb\xbf") else 0) is not None:
        return True
    if not any(mark in data for mark in _MARKS):
        return False
    return _INSIDE.search(data) is not None and _SOURCE.fullmatch(path) is None
