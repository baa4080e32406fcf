/** A folder of documentation as one tar.gz: what of it is sent, and how it is written. */

import { gzip } from "node:zlib";
import { shownBytes } from "../figures";

/** A file of a folder, `path` relative with `/`. */
export interface Entry {
  readonly path: string;
  readonly size: number;
}

/** What is sent of a folder, and what is not. */
export interface Plan {
  readonly chosen: readonly Entry[];
  readonly bytes: number;
  /** Documents that are left out, each with the reason, bounded. */
  readonly leftOut: readonly string[];
}

/** The server's limits (docs/documentation.md), a little below them. */
export interface PackLimits {
  readonly files: number;
  readonly file: number;
  readonly bytes: number;
}

export const PACK_LIMITS: PackLimits = { files: 5_000, file: 4 * 1024 * 1024, bytes: 240 * 1024 * 1024 };
/** Bytes that one upload may have. */
export const UPLOAD_BYTES = 64 * 1024 * 1024;

const DOCUMENT = /\.(?:md|markdown|mdx|mkd|rst|rest|html?|xhtml|txt|text|adoc|asciidoc|org)$/i;
const ARCHIVE = /\.(?:zip|tar|tgz|tar\.gz|tbz2?|tar\.bz2|txz|tar\.xz)$/i;
const FOLDERS = new Set(["node_modules", "__pycache__", "__MACOSX", "_sources", "site-packages", "vendor", "target"]);
const NAMES = new Set([
  "requirements.txt",
  "cmakelists.txt",
  "robots.txt",
  "genindex.html",
  "py-modindex.html",
  "search.html",
]);
const TOLD = 20;
const BLOCK = 512;

/** Whether the server reads a file of this name as documentation. */
export function isDocument(path: string): boolean {
  const name = path.slice(path.lastIndexOf("/") + 1);
  return DOCUMENT.test(name) && !name.startsWith(".") && !NAMES.has(name.toLowerCase());
}

/** Whether a file of this name is an archive that the server opens. */
export function isArchive(path: string): boolean {
  return ARCHIVE.test(path);
}

/** Folders that hold no documentation of their own; hidden ones neither. */
export function isSkipped(folder: string): boolean {
  return folder.startsWith(".") || FOLDERS.has(folder);
}

/** Chooses what is sent: documents by their path, until a limit is reached. */
export function plan(entries: readonly Entry[], limits: PackLimits = PACK_LIMITS): Plan {
  const chosen: Entry[] = [];
  const left: string[] = [];
  let bytes = 0;
  const found = entries.filter(({ path }) => isDocument(path) && !path.split("/").slice(0, -1).some(isSkipped));
  for (const entry of [...found].sort((one, other) => (one.path < other.path ? -1 : 1))) {
    if (entry.size > limits.file) left.push(`${entry.path}: larger than ${shownBytes(limits.file)}`);
    else if (chosen.length >= limits.files) left.push(`${entry.path}: more than ${limits.files} files`);
    else if (bytes + entry.size > limits.bytes)
      left.push(`${entry.path}: more than ${shownBytes(limits.bytes)} in all`);
    else {
      chosen.push(entry);
      bytes += entry.size;
    }
  }
  const more = left.length - TOLD;
  return { chosen, bytes, leftOut: more > 0 ? [...left.slice(0, TOLD), `and ${more} more files`] : left };
}

/** Writes a tar file by file, so that a folder is never twice in memory; `finish` compresses it. */
export class Tar {
  readonly #parts: Uint8Array[] = [];

  add(path: string, content: Uint8Array): void {
    const name = new TextEncoder().encode(path);
    if (name.length > 100) this.#entry("long.pax", paxPath(path), "x");
    this.#entry(name.length > 100 ? "long" : path, content, "0");
  }

  /** The archive as tar.gz. */
  finish(): Promise<Uint8Array> {
    const whole = Buffer.concat([...this.#parts, new Uint8Array(2 * BLOCK)]);
    this.#parts.length = 0;
    return new Promise((resolve, reject) =>
      gzip(whole, { level: 6 }, (error, packed) => (error === null ? resolve(packed) : reject(error))),
    );
  }

  #entry(name: string, content: Uint8Array, type: "0" | "x"): void {
    this.#parts.push(header(name, content.length, type), content);
    const rest = content.length % BLOCK;
    if (rest > 0) this.#parts.push(new Uint8Array(BLOCK - rest));
  }
}

/** One record of a pax header: its own length counts. */
function paxPath(path: string): Uint8Array {
  const field = ` path=${path}\n`;
  const size = new TextEncoder().encode(field).length;
  let length = size + String(size).length;
  length = size + String(length).length;
  return new TextEncoder().encode(`${length}${field}`);
}

/** A ustar header: a file that anybody may read, without a time, so that a folder is packed the same twice. */
function header(name: string, size: number, type: "0" | "x"): Uint8Array {
  const block = new Uint8Array(BLOCK);
  const put = (text: string, at: number) => block.set(new TextEncoder().encode(text), at);
  put(name, 0);
  put("0000644\0", 100);
  put("0000000\0", 108);
  put("0000000\0", 116);
  put(`${size.toString(8).padStart(11, "0")}\0`, 124);
  put("00000000000\0", 136);
  put("        ", 148);
  put(type, 156);
  put("ustar\x0000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}
