/**
 * What is never sent unless a `.aicockpitignore` says so: files that hold keys, passwords or tokens. The names and the rules
 * are those of the server's `indexer/secrets.py`; a test holds the names against docs/indexing.md.
 */

/** Patterns as in a `.gitignore`, compared without regard to case. */
export const SECRET_NAMES: readonly string[] = [
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
];

const SPACE = "[ \\t\\n\\v\\f\\r]*";
const BEGINS = new RegExp(`^${SPACE}(?:-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-|openssh-key-v1\\0)`);
const INSIDE =
  /-----BEGIN [A-Z0-9 ]*PRIVATE KEY|AGE-SECRET-KEY-1|"type"[ \t\n\v\f\r]*:[ \t\n\v\f\r]*"service_account"|client-key-data:/;
/** Each of those has one of these in it: found at a hundred times the speed of an expression. */
const MARKS: readonly string[] = ["PRIVATE KEY", "AGE-SECRET-KEY-1", '"service_account"', "client-key-data:"];
/** Code speaks of keys, compares with their beginnings and writes them: only what begins as one is one there. */
const SOURCE =
  /^.*\.(?:[chm]|cc|cpp|cxx|hh|hpp|mm|cu|pyi?|rs|go|java|kts?|scala|groovy|swift|cs|fs|vb|[cm]?js|jsx|[cm]?ts|tsx|vue|svelte|rb|php|p[lm]|lua|r|jl|exs?|erl|hrl|hs|mli?|clj[cs]?|dart|zig|nim|sh|bash|zsh|fish|ps1|bat|cmd|sql)$/is;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

/** A name of these rules: what was judged under others is judged again. */
export const SECRET_RULES = [BEGINS, INSIDE, SOURCE].map((rule) => rule.source).join("\n");

/** A file that begins as a private key does, whatever its name; one that is no source code and holds a key. */
export function holdsKey(path: string, data: Uint8Array): boolean {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const start = bytes.subarray(0, 3).equals(BOM) ? 3 : 0;
  if (beginsAsKey(bytes, start)) return true;
  if (!MARKS.some((mark) => bytes.includes(mark, 0, "latin1"))) return false;
  return INSIDE.test(bytes.toString("latin1")) && !SOURCE.test(path);
}

function beginsAsKey(bytes: Buffer, start: number): boolean {
  let place = start;
  while (place < bytes.length && isSpace(bytes[place])) place += 1;
  const first = bytes[place];
  // "-", "P", "o": nearly every file is told apart by this one byte.
  if (first !== 0x2d && first !== 0x50 && first !== 0x6f) return false;
  return BEGINS.test(bytes.toString("latin1", place));
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || (byte !== undefined && byte >= 0x09 && byte <= 0x0d);
}
