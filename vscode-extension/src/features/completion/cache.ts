/** Completions that were had before: typing what they say, and taking it back, needs no request. Bounded. */

import type { Trace } from "../timeline";

export interface Entry {
  readonly uri: string;
  /** The text before the cursor it was made for: its length and its end, to be sure of the right one. */
  readonly length: number;
  readonly end: string;
  /** Beginning of the text behind the cursor. */
  readonly suffix: string;
  /** What may be shown, the best first; empty: there was nothing, for the reason that `why` tells. */
  readonly texts: readonly string[];
  readonly why: string;
  /** By the session's clock, milliseconds. */
  readonly at: number;
  /** Of the request that it came from, and when that was asked for. */
  readonly trace: Trace;
  readonly began: number;
}

/** What is left of an entry at a place further on. */
export interface Found {
  readonly entry: Entry;
  /** The texts that agree with what was typed since, without it. */
  readonly rests: readonly string[];
  /** Characters typed since. */
  readonly typed: number;
}

const SUFFIX = 256;
const END = 48;
/** Another file may have changed meanwhile. */
const FRESH_MS = 300_000;

export function suffixKey(suffix: string): string {
  return suffix.slice(0, SUFFIX);
}

/** Least recently used entries go first, by count and by bytes. */
export class Cache {
  readonly #entries = new Map<number, Entry>();
  #bytes = 0;
  #longest = 0;

  constructor(
    private readonly most: number = 256,
    private readonly mostBytes: number = 1_000_000,
  ) {}

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  put(seed: string, prefix: string, entry: Omit<Entry, "length" | "end">): Entry {
    const kept = { ...entry, length: prefix.length, end: prefix.slice(-END) };
    const key = tailHashes(seed, prefix, 0)[0] ?? 0;
    this.#drop(key);
    this.#entries.set(key, kept);
    this.#bytes += bytesOf(kept);
    for (const text of kept.texts) this.#longest = Math.max(this.#longest, text.length);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.most && this.#bytes <= this.mostBytes) break;
      this.#drop(oldest);
    }
    return kept;
  }

  /**
   * The newest place before the cursor, as far back as an entry reaches, from which an entry says what was typed since.
   * An entry that says "nothing" counts at its very place only.
   */
  find(seed: string, uri: string, prefix: string, suffix: string, now: number): Found | undefined {
    if (this.#entries.size === 0) return undefined;
    const hashes = tailHashes(seed, prefix, this.#longest);
    let nothing: Found | undefined;
    for (let typed = 0; typed < hashes.length; typed++) {
      const key = hashes[typed] ?? 0;
      const entry = this.#entries.get(key);
      if (entry === undefined || now - entry.at > FRESH_MS) continue;
      const found = continued(entry, uri, prefix, suffix);
      if (found?.rests.length === 0) nothing = found;
      if (found === undefined || found.rests.length === 0) continue;
      this.#entries.delete(key);
      this.#entries.set(key, entry);
      return found;
    }
    return nothing;
  }

  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
    this.#longest = 0;
  }

  #drop(key: number): void {
    const old = this.#entries.get(key);
    if (old === undefined) return;
    this.#entries.delete(key);
    this.#bytes -= bytesOf(old);
  }
}

/** What an entry still says where `prefix` ends; undefined: it is another place, or something else was typed. */
export function continued(entry: Entry, uri: string, prefix: string, suffix: string): Found | undefined {
  const typed = prefix.length - entry.length;
  if (typed < 0 || entry.uri !== uri) return undefined;
  if (!prefix.startsWith(entry.end, entry.length - entry.end.length)) return undefined;
  if (!sameSuffix(entry.suffix, suffix)) return undefined;
  if (entry.texts.length === 0) return typed === 0 ? { entry, rests: [], typed } : undefined;
  const since = prefix.slice(entry.length);
  const rests = entry.texts.filter((text) => text.length > typed && text.startsWith(since)).map((t) => t.slice(typed));
  return rests.length === 0 ? undefined : { entry, rests, typed };
}

/** Equal, or the editor has put closing brackets or quotes in front of it. */
export function sameSuffix(old: string, suffix: string): boolean {
  const key = suffixKey(suffix);
  if (key === old) return true;
  const closers = /^[)\]}>"'`]{1,3}/.exec(suffix)?.[0] ?? "";
  for (let size = 1; size <= closers.length; size++) {
    if (suffixKey(suffix.slice(size)) === old) return true;
  }
  return false;
}

/**
 * Keys of a text without its last 0, 1, 2, … `back` characters: two polynomial hashes (FNV's prime, and 31) over all
 * of it, 53 bits together. One walk over the text, some ten microseconds for 24,000 characters.
 */
export function tailHashes(seed: string, text: string, back: number): Float64Array {
  const count = Math.min(back, text.length) + 1;
  const keys = new Float64Array(count);
  let a = 0x811c9dc5;
  let b = 7;
  for (let index = 0; index < seed.length; index++) {
    a = Math.imul(a ^ seed.charCodeAt(index), 0x01000193);
    b = (Math.imul(b, 31) + seed.charCodeAt(index)) | 0;
  }
  const from = text.length - count;
  for (let index = 0; index < text.length; index++) {
    if (index > from) keys[text.length - index] = (a >>> 0) * 0x200000 + (b & 0x1fffff);
    const code = text.charCodeAt(index);
    a = Math.imul(a ^ code, 0x01000193);
    b = (Math.imul(b, 31) + code) | 0;
  }
  keys[0] = (a >>> 0) * 0x200000 + (b & 0x1fffff);
  return keys;
}

function bytesOf(entry: Entry): number {
  let units = entry.end.length + entry.suffix.length + entry.uri.length + entry.why.length;
  for (const text of entry.texts) units += text.length;
  return units * 2;
}
