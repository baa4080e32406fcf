/** Keeps one workspace on a server equal to a folder: first scan, then what changes, until it is aborted. */

import { sleep } from "../../api/breath";
import { isAbort } from "../../api/fault";
import { aborted } from "../../api/faults";
import type { Gateway } from "../../api/gateway";
import { type Entry, SIZE_LIMIT } from "./entry";
import { type Git, runGit } from "./git";
import type { Hash } from "./hash";
import { Lister } from "./ignored";
import { loadLedger, saveLedger } from "./ledger";
import { Pusher, type PushState } from "./pusher";
import { GIT_FILE, including, OWN_FILE } from "./rules";
import { FolderGone, type Look, Scanner } from "./scan";

const QUIET_MS = 50;
const LONGEST_QUIET_MS = 500;
/** So many changed files are a branch switch: everything is looked at, and once. */
const MANY = 200;
const MANY_QUIET_MS = 400;
const AGAIN_MS = 500;
const GONE_MS = 2000;
const SAVE_EVERY_MS = 30_000;
/** git's index may make another file belong: looked at so often at most. */
const INDEX_EVERY_MS = 30_000;
const HELD_SHOWN = 5;
const MOST_PATHS = 10_000;

/** `phase`: `looking` (reading the folder), `paused` (the folder is away), and those of the pusher. */
export interface KeeperState {
  readonly phase: "looking" | "paused" | PushState["phase"];
  /** 0 to 1 of what is going on; undefined: not known. */
  readonly share: number | undefined;
  readonly why: string;
  readonly files: number;
  readonly revision: number;
  readonly leftOut: ReadonlyMap<string, number>;
}

export interface KeeperParts {
  /** Absolute. */
  readonly root: string;
  readonly name: string;
  /** The ledger's file; undefined: none is kept. */
  readonly ledger: string | undefined;
  readonly gateway: Pick<Gateway, "createWorkspace" | "manifest" | "blobs">;
  readonly hash: Hash;
  readonly onState: (state: KeeperState) => void;
  /** Something that the user may want to read. */
  readonly say: (text: string) => void;
  readonly met?: (error: unknown) => void;
  readonly git?: Git;
  readonly quietMs?: number;
}

export class Keeper {
  state: KeeperState = { phase: "looking", share: 0, why: "", files: 0, revision: 0, leftOut: new Map() };
  readonly #scanner: Scanner;
  readonly #lister: Lister;
  readonly #pusher: Pusher;
  #paths = new Set<string>();
  #everything = true;
  #firstAt = 0;
  #lastAt = 0;
  #wake: (() => void) | undefined;
  #indexAt = Number.NEGATIVE_INFINITY;
  #indexTimer: ReturnType<typeof setTimeout> | undefined;
  #said = "";
  #held = new Set<string>();
  #savedAt = 0;
  #unsaved = false;

  constructor(private readonly parts: KeeperParts) {
    this.#lister = new Lister(parts.root, parts.git ?? runGit);
    this.#scanner = new Scanner(parts.root, this.#lister, parts.hash, SIZE_LIMIT);
    this.#pusher = new Pusher({
      gateway: parts.gateway,
      name: parts.name,
      source: this.#scanner,
      onState: (state) => this.#pushed(state),
      ...(parts.met ? { met: parts.met } : {}),
    });
  }

  /** All that is known of the files, by path. */
  get entries(): ReadonlyMap<string, Entry> {
    return this.#scanner.entries;
  }

  /** These may have changed, files or folders, with `/` and relative to the root; "": everything. */
  changed(paths: Iterable<string>): void {
    let news = false;
    for (const path of paths) {
      if (path === ".git" || path.startsWith(".git/")) {
        if (path === ".git/index") this.#indexChanged();
        continue;
      }
      if (path && this.#lister.ignores(path)) continue;
      news = true;
      const name = path.slice(path.lastIndexOf("/") + 1);
      if (path === "" || name === GIT_FILE || name === OWN_FILE || this.#paths.size >= MOST_PATHS)
        this.#everything = true;
      else this.#paths.add(path);
    }
    if (!news) return;
    this.#lastAt = performance.now();
    if (this.#firstAt === 0) this.#firstAt = this.#lastAt;
    this.#wake?.();
  }

  /** The server is said to be there again: a push that waits goes on now. */
  retry(): void {
    this.#pusher.retry();
  }

  /** Until aborted (then it throws an AbortError). Throws a Fault that only the user can mend. */
  async run(signal: AbortSignal): Promise<never> {
    const own = new AbortController();
    const both = AbortSignal.any([signal, own.signal]);
    const { ledger, root } = this.parts;
    if (ledger !== undefined) this.#scanner.restore(await loadLedger(ledger, root, this.#scanner.limit));
    const tasks = [this.#look(both), this.#pusher.run(both)];
    try {
      return await Promise.race(tasks);
    } finally {
      own.abort();
      clearTimeout(this.#indexTimer);
      await Promise.allSettled(tasks);
      await this.#save(true);
    }
  }

  async #look(signal: AbortSignal): Promise<never> {
    for (;;) {
      const everything = this.#everything || this.#paths.size > MANY;
      const paths = [...this.#paths];
      this.#everything = false;
      this.#paths = new Set();
      this.#firstAt = 0;
      try {
        const progress = (share: number): void => this.#tell({ phase: "looking", share });
        const look = everything ? await this.#scanner.scan(signal, progress) : await this.#scanner.look(paths, signal);
        this.#found(look, everything);
      } catch (error) {
        if (isAbort(error)) throw error;
        this.#everything = true;
        const away = error instanceof FolderGone;
        const why = away
          ? `${this.parts.root} is not there; nothing is removed.`
          : `The folder cannot be read: ${error}`;
        this.#tell({ phase: "paused", share: undefined, why });
        await sleep(GONE_MS, signal);
        continue;
      }
      await this.#save(false);
      await this.#untilQuiet(signal);
    }
  }

  #found(look: Look, everything: boolean): void {
    if (look.problem && look.problem !== this.#said) this.parts.say(look.problem);
    if (everything || look.problem) this.#said = look.problem;
    this.#tellHeld(look.held, everything);
    if (look.changed.size) this.#unsaved = true;
    if (everything) this.#tell({ leftOut: look.leftOut });
    if (everything || look.changed.size) this.#pusher.changed(look.changed);
    if (look.again.length) {
      const timer = setTimeout(() => this.changed(look.again), AGAIN_MS);
      timer.unref?.();
    }
  }

  /** Names each file once that its content holds back. */
  #tellHeld(held: readonly string[], everything: boolean): void {
    const fresh = held.filter((path) => !this.#held.has(path)).sort();
    this.#held = new Set(everything ? held : [...this.#held, ...held]);
    const first = fresh[0];
    if (first === undefined) return;
    const more = fresh.length > HELD_SHOWN ? ` and ${fresh.length - HELD_SHOWN} more` : "";
    this.parts.say(
      `Not sent, since the content looks like a key or a password: ${fresh.slice(0, HELD_SHOWN).join(", ")}${more}. ` +
        `If one is harmless, a line like ${including(first)} in ${OWN_FILE} sends it.`,
    );
  }

  /** Waits for changes, and until it is quiet. */
  async #untilQuiet(signal: AbortSignal): Promise<void> {
    while (!this.#everything && this.#paths.size === 0) {
      await new Promise<void>((resolve, reject) => {
        const stop = (): void => {
          this.#wake = undefined;
          reject(aborted());
        };
        this.#wake = () => {
          this.#wake = undefined;
          signal.removeEventListener("abort", stop);
          resolve();
        };
        if (signal.aborted) stop();
        else signal.addEventListener("abort", stop, { once: true });
      });
    }
    for (;;) {
      const quiet = this.#paths.size > MANY ? MANY_QUIET_MS : (this.parts.quietMs ?? QUIET_MS);
      const due = Math.min(this.#lastAt + quiet, this.#firstAt + Math.max(quiet * 4, LONGEST_QUIET_MS));
      const left = due - performance.now();
      if (left <= 0) return;
      await sleep(left, signal);
    }
  }

  #indexChanged(): void {
    if (this.#indexTimer !== undefined) return;
    const wait = Math.max(1000, this.#indexAt + INDEX_EVERY_MS - performance.now());
    this.#indexTimer = setTimeout(() => {
      this.#indexTimer = undefined;
      this.#indexAt = performance.now();
      this.changed([""]);
    }, wait);
    this.#indexTimer.unref?.();
  }

  async #save(last: boolean): Promise<void> {
    const { ledger, root, say } = this.parts;
    const due = performance.now() - this.#savedAt >= SAVE_EVERY_MS || this.#savedAt === 0;
    if (ledger === undefined || !this.#unsaved || !(last || due)) return;
    this.#unsaved = false;
    this.#savedAt = performance.now();
    try {
      await saveLedger(ledger, root, this.#scanner.limit, this.#scanner.entries);
    } catch (error) {
      say(`What was read could not be noted, so the next start reads every file again: ${error}`);
    }
  }

  #pushed(state: PushState): void {
    let files = this.state.files;
    if (state.phase === "synced") {
      files = 0;
      for (const entry of this.#scanner.entries.values()) if (!entry.why) files += 1;
    }
    this.#tell({ phase: state.phase, share: state.sent, why: state.why, files, revision: state.revision });
  }

  #tell(change: Partial<KeeperState>): void {
    this.state = { ...this.state, ...change };
    this.parts.onState(this.state);
  }
}
