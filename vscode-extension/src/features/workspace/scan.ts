/** The folder as it is on disk: which files belong to the workspace, and what each one is. */

import { type BigIntStats, promises } from "node:fs";
import { join } from "node:path";
import { Breath, forEach } from "../../api/breath";
import { isAbort } from "../../api/fault";
import { type Entry, type Read, readFile, SIZE_LIMIT, same } from "./entry";
import type { Hash } from "./hash";
import type { Lister, Listing } from "./ignored";

/** Files looked at, at once. */
const WIDTH = 8;

/** What a look found. `changed`: the server must learn of these. `again`: would not hold still. `held`: look like secrets. */
export interface Look {
  readonly changed: ReadonlySet<string>;
  readonly again: readonly string[];
  readonly held: readonly string[];
  readonly leftOut: ReadonlyMap<string, number>;
  readonly problem: string;
}

/** The folder is not there, or another, empty one is in its place: nothing may be concluded about its files. */
export class FolderGone extends Error {}

interface Pass {
  readonly changed: Set<string>;
  readonly again: string[];
  readonly held: string[];
  readonly leftOut: Map<string, number>;
}

export class Scanner {
  #entries = new Map<string, Entry>();
  #place: bigint | undefined;

  constructor(
    readonly root: string,
    private readonly lister: Lister,
    private readonly hash: Hash,
    readonly limit: number = SIZE_LIMIT,
  ) {}

  /** All that is known, files whose content keeps them out included. */
  get entries(): ReadonlyMap<string, Entry> {
    return this.#entries;
  }

  /** What a ledger knew, before the first scan. */
  restore(entries: Map<string, Entry>): void {
    this.#entries = entries;
  }

  /** The entry of a file that belongs to the workspace. */
  entry(path: string): Entry | undefined {
    const entry = this.#entries.get(path);
    return entry === undefined || entry.why ? undefined : entry;
  }

  /** Everything, with the rules read afresh. `progress` gets 0 to 1. Throws FolderGone. */
  async scan(signal?: AbortSignal, progress: (share: number) => void = () => {}): Promise<Look> {
    const place = await promises.stat(this.root, { bigint: true }).catch(() => undefined);
    if (!place?.isDirectory()) throw new FolderGone(`${this.root} is not there`);
    let listing: Listing;
    try {
      listing = await this.lister.list(signal);
    } catch (error) {
      if (!isAbort(error) && error instanceof Error && "code" in error && typeof error.code === "string")
        throw new FolderGone(error.message);
      throw error;
    }
    const other = this.#place !== undefined && this.#place !== place.ino;
    if (other && listing.paths.length === 0 && this.#entries.size > 0) throw new FolderGone(`${this.root} is empty`);
    this.#place = place.ino;
    const pass = begin(listing);
    const there = new Set(listing.paths);
    const breath = new Breath();
    for (const path of [...this.#entries.keys()]) {
      if (!there.has(path)) this.#drop(path, pass);
      if (breath.due()) await breath.take(signal);
    }
    await this.#takeAll(listing, pass, signal, progress);
    return { ...pass, problem: listing.problem };
  }

  /** Only these paths, files or folders, there or gone. */
  async look(paths: readonly string[], signal?: AbortSignal): Promise<Look> {
    const unknown: string[] = [];
    const known: string[] = [];
    const gone: string[] = [];
    await forEach(
      [...new Set(paths)],
      WIDTH,
      async (path) => {
        const seen = await lstat(join(this.root, path));
        if (seen === undefined) gone.push(path);
        else if (seen.isFile() && this.#entries.has(path)) known.push(path);
        else if (seen.isFile() || seen.isDirectory()) unknown.push(path);
        else gone.push(path);
      },
      signal,
    );
    const none: Listing = { paths: [], allowed: new Set(), leftOut: new Map(), problem: "" };
    // Whether a known file belongs to the workspace is known; whether it may be sent though it looks like a secret is asked.
    const asked = [...unknown, ...known.filter((path) => this.#entries.get(path)?.secret)];
    const listing = asked.length ? await this.lister.listOnly(asked, signal) : none;
    const pass = begin(listing);
    await this.#dropInside([...gone, ...unknown], new Set(listing.paths), pass, signal);
    const all = { ...listing, paths: [...new Set([...listing.paths, ...known])] };
    await this.#takeAll(all, pass, signal, () => {});
    const ignored = unknown.filter((path) => !this.#entries.has(path) && !listing.paths.includes(path));
    if (ignored.length) await this.lister.learnIgnored(ignored, signal);
    return { ...pass, problem: listing.problem };
  }

  /** The content as it is now, and its hash; undefined: it does not belong to the workspace any more. */
  async content(path: string): Promise<{ readonly hash: string; readonly content: Uint8Array } | undefined> {
    const known = this.entry(path);
    if (known === undefined) return undefined;
    const found = await readFile(join(this.root, path), this.hash, this.limit, known.secret);
    this.#settle(path, found, begin());
    return found.entry === undefined || found.why ? undefined : { hash: found.entry.hash, content: found.data };
  }

  async #takeAll(
    listing: Listing,
    pass: Pass,
    signal: AbortSignal | undefined,
    progress: (share: number) => void,
  ): Promise<void> {
    let done = 0;
    const total = listing.paths.length;
    const one = async (path: string): Promise<void> => {
      await this.#take(path, listing.allowed.has(path), pass);
      done += 1;
      if (done % 64 === 0 || done === total) progress(done / total);
    };
    await forEach(listing.paths, WIDTH, one, signal);
  }

  async #take(path: string, allowed: boolean, pass: Pass): Promise<void> {
    const seen = await lstat(join(this.root, path));
    const known = this.#entries.get(path);
    if (!seen?.isFile() || seen.size > BigInt(this.limit)) {
      if (seen?.isFile()) count(pass, "large");
      else if (seen !== undefined && !seen.isDirectory()) count(pass, "special");
      this.#drop(path, pass);
    } else if (known !== undefined && same(known, seen) && (!known.secret || (known.why === "") === allowed)) {
      if (known.why) count(pass, known.why);
      if (known.why === "secret") pass.held.push(path);
    } else this.#settle(path, await readFile(join(this.root, path), this.hash, this.limit, allowed), pass);
  }

  #settle(path: string, found: Read, pass: Pass): void {
    if (found.why && found.why !== "gone") count(pass, found.why);
    if (found.why === "secret") pass.held.push(path);
    if (found.moving) pass.again.push(path);
    if (found.entry === undefined) {
      this.#drop(path, pass);
      return;
    }
    const before = this.#entries.get(path)?.hash ?? "";
    this.#entries.set(path, found.entry);
    if (before !== found.entry.hash) pass.changed.add(path);
  }

  #drop(path: string, pass: Pass): void {
    const known = this.#entries.get(path);
    if (known === undefined) return;
    this.#entries.delete(path);
    if (!known.why) pass.changed.add(path);
  }

  /** A path that is gone may have been a file or a folder; one that is there and not listed does not belong any more. */
  async #dropInside(paths: readonly string[], listed: ReadonlySet<string>, pass: Pass, signal?: AbortSignal) {
    for (const path of paths) if (!listed.has(path)) this.#drop(path, pass);
    const folders = paths.map((path) => `${path}/`);
    if (folders.length === 0) return;
    const breath = new Breath();
    for (const path of [...this.#entries.keys()]) {
      if (!listed.has(path) && folders.some((folder) => path.startsWith(folder))) this.#drop(path, pass);
      if (breath.due()) await breath.take(signal);
    }
  }
}

function begin(listing?: Listing): Pass {
  return { changed: new Set(), again: [], held: [], leftOut: new Map(listing?.leftOut) };
}

function count(pass: Pass, why: string): void {
  pass.leftOut.set(why, (pass.leftOut.get(why) ?? 0) + 1);
}

async function lstat(path: string): Promise<BigIntStats | undefined> {
  try {
    return await promises.lstat(path, { bigint: true });
  } catch {
    return undefined;
  }
}
