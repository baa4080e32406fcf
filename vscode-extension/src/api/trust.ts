/** Which certificates are trusted: Node's, the system's, `NODE_EXTRA_CA_CERTS` and a file of the user's. */

import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import * as tls from "node:tls";
import { Fault } from "./fault";

type Env = Readonly<Record<string, string | undefined>>;
/** Node's own way to ask for stores, since 22.15. */
export type Store = (kind: "default" | "system") => string[];

const CERTIFICATE =
  /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[\s\S]+?-----END (?:TRUSTED |X509 )?CERTIFICATE-----/g;

/** Made once and shared by all connections: making it parses some hundred certificates. Throws a Fault of kind `tls`. */
export function secureContext(caFile: string, env: Env): tls.SecureContext {
  const own = caFile.trim() === "" ? [] : readCertificates(caFile.trim());
  try {
    return tls.createSecureContext({ ca: [...roots(env), ...own] });
  } catch (error) {
    throw new Fault(
      "tls",
      `The certificates in ${caFile || "the system's store"} cannot be used: ${reason(error)}.`,
      "Give a file with certificates in PEM form in aicockpit.caFile.",
    );
  }
}

/** The certificates of a PEM file; `~/` is the home folder. Throws a Fault of kind `tls` when it has none. */
export function readCertificates(file: string): readonly string[] {
  const path = pathOf(file);
  const fix = "Correct aicockpit.caFile: a file with lines “-----BEGIN CERTIFICATE-----”, or nothing.";
  let text: string;
  try {
    text = readFileSync(path, "latin1");
  } catch (error) {
    throw new Fault("tls", `The certificate file ${path} cannot be read: ${reason(error)}.`, fix, undefined, "ca_file");
  }
  const found = text.match(CERTIFICATE) ?? [];
  if (found.length === 0) {
    throw new Fault("tls", `The file ${path} holds no certificate in PEM form.`, fix, undefined, "ca_file");
  }
  return found;
}

/** Changes when the file does. Never throws. */
export function stampOf(caFile: string): string {
  const file = caFile.trim();
  return file === "" ? "" : `${file} ${statSync(pathOf(file), { throwIfNoEntry: false })?.mtimeMs}`;
}

function pathOf(file: string): string {
  return /^~[/\\]/.test(file) ? join(homedir(), file.slice(2)) : file;
}

/** All that is trusted without a file of the user's. `store` null: an older Node, which tells only its own. */
export function roots(env: Env, store: Store | null = stores()): readonly string[] {
  const found =
    store === null
      ? [...tls.rootCertificates, ...extra(env.NODE_EXTRA_CA_CERTS)]
      : [...store("default"), ...store("system")];
  return [...new Set(found.map((one) => one.trim()))];
}

function stores(): Store | null {
  return "getCACertificates" in tls ? (tls.getCACertificates as Store) : null;
}

function extra(file: string | undefined): readonly string[] {
  if (!file) return [];
  try {
    return readFileSync(file, "latin1").match(CERTIFICATE) ?? [];
  } catch {
    return []; // as Node does: a missing extra file is no reason to stop
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
