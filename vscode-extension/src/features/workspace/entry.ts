/** What is known of one file, and reading it: its bytes, their hash, and whether they may leave this machine. */

import { type BigIntStats, constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import type { Hash } from "./hash";
import { holdsKey } from "./secrets";

/** Bytes of the largest file that is sent. */
export const SIZE_LIMIT = 1 << 20;
const HEAD = 8192;
const TRIES = 3;
/** Times of files move in ticks of some milliseconds; whole seconds are the mark of a coarse file system. */
const TICK_NS = 50_000_000n;
const COARSE_TICK_NS = 2_100_000_000n;
const SECOND_NS = 1_000_000_000n;

/**
 * A file as it was read. `hash` is "" when its content keeps it out, for the reason `why`. `ctimeNs` is -1 when it was read
 * so soon after a change that a further one might not show in its times. `secret`: its content looks like one, be it kept
 * out for that or let through by a `.aicockpitignore`.
 */
export interface Entry {
  readonly hash: string;
  readonly size: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  readonly inode: bigint;
  readonly why: string;
  readonly secret: boolean;
}

/** `entry` undefined: it is no file of the workspace, `why`. `moving`: it changed while it was read, each time. */
export interface Read {
  readonly entry: Entry | undefined;
  readonly data: Uint8Array;
  readonly why: string;
  readonly moving: boolean;
}

const NOTHING = new Uint8Array(0);

/** Nothing has changed since it was read. */
export function same(entry: Entry, seen: BigIntStats): boolean {
  return (
    entry.ctimeNs === seen.ctimeNs &&
    entry.mtimeNs === seen.mtimeNs &&
    BigInt(entry.size) === seen.size &&
    entry.inode === seen.ino
  );
}

/** Reads one file; the hash is that of the bytes. Tries again while it changes. `allowed`: though it looks like a secret. */
export async function readFile(path: string, hash: Hash, limit: number, allowed: boolean): Promise<Read> {
  let result = left("unreadable");
  for (let tries = 0; tries < TRIES; tries++) {
    let file: FileHandle;
    try {
      // A named pipe that took the file's place must not hold us.
      const flags = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
      file = await open(path, flags);
    } catch (error) {
      return left(codeOf(error));
    }
    try {
      result = await readOpen(file, path, hash, limit, allowed);
    } catch {
      return left("unreadable");
    } finally {
      await file.close();
    }
    if (!result.moving) break;
  }
  return result;
}

async function readOpen(file: FileHandle, path: string, hash: Hash, limit: number, allowed: boolean): Promise<Read> {
  const before = await file.stat({ bigint: true });
  if (!before.isFile()) return left("special");
  if (before.size > BigInt(limit)) return left("large");
  const data = await contentOf(file, Number(before.size), limit);
  if (data === undefined) return left("large");
  const after = await file.stat({ bigint: true });
  const still =
    after.size === BigInt(data.length) && after.mtimeNs === before.mtimeNs && after.ctimeNs === before.ctimeNs;
  const tick = after.ctimeNs % SECOND_NS ? TICK_NS : COARSE_TICK_NS;
  const sure = still && BigInt(Date.now()) * 1_000_000n - after.ctimeNs > tick;
  const binary = data.subarray(0, HEAD).includes(0);
  const secret = !binary && holdsKey(path, data);
  const why = binary ? "binary" : secret && !allowed ? "secret" : "";
  const entry: Entry = {
    hash: why ? "" : hash(data),
    size: data.length,
    mtimeNs: after.mtimeNs,
    ctimeNs: sure ? after.ctimeNs : -1n,
    inode: after.ino,
    why,
    secret,
  };
  return { entry, data: why ? NOTHING : data, why, moving: !still };
}

/** The bytes; undefined when there are more than `limit`. */
async function contentOf(file: FileHandle, size: number, limit: number): Promise<Buffer | undefined> {
  let buffer = Buffer.allocUnsafe(size + 1);
  let filled = 0;
  for (;;) {
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, filled);
    filled += bytesRead;
    if (filled > limit) return undefined;
    if (bytesRead === 0 || filled === size) return buffer.subarray(0, filled);
    if (filled === buffer.length) buffer = Buffer.concat([buffer, Buffer.allocUnsafe(65_536)]);
  }
}

function left(why: string): Read {
  return { entry: undefined, data: NOTHING, why, moving: false };
}

function codeOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : "";
  if (code === "ENOENT" || code === "ENOTDIR") return "gone";
  return code === "ELOOP" || code === "EISDIR" ? "special" : "unreadable";
}
