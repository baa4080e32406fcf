/**
 * The way to the server: manifest, the contents it lacks, manifest again, until it stands where the folder stands. Whatever
 * happens on the way, the next try begins with the manifest, whose answer tells what has arrived.
 */

import { sleep, stopIfAborted } from "../../api/breath";
import { Fault, isAbort } from "../../api/fault";
import { aborted } from "../../api/faults";
import type { Gateway, ManifestAnswer } from "../../api/gateway";
import type { Entry } from "./entry";
import { type Batch, complete, difference } from "./manifest";

const BATCH_BYTES = 4 << 20;
const BATCH_FILES = 1024;
const READ_AT_ONCE = 8;
const DISAGREEMENTS = 8;
const FIRST_WAIT_MS = 250;
const LAST_WAIT_MS = 15_000;
/** After a refusal that time does not heal: until a file changes, or so long. */
const HELD_MS = 60_000;

/** The files, as they are known now. */
export interface Source {
  readonly entries: ReadonlyMap<string, Entry>;
  /** The content as it is now; undefined: it is gone. What differs from the entry is in the entries afterwards. */
  content(path: string): Promise<{ readonly hash: string; readonly content: Uint8Array } | undefined>;
}

/** How it goes. `sent`: 0 to 1 of the contents that the server lacked. */
export interface PushState {
  readonly phase: "idle" | "pushing" | "synced" | "waiting" | "held" | "failed";
  readonly sent: number | undefined;
  readonly why: string;
  readonly revision: number;
}

export interface PusherParts {
  readonly gateway: Pick<Gateway, "createWorkspace" | "manifest" | "blobs">;
  readonly name: string;
  readonly source: Source;
  readonly onState: (state: PushState) => void;
  /** Told of each fault, and of each success (undefined). */
  readonly met?: (error: unknown) => void;
  readonly wait?: (milliseconds: number, signal?: AbortSignal) => Promise<void>;
  readonly random?: () => number;
}

/** `again`: it may pass by itself. `hold`: a limit; a change of the files may help. `stop`: the user must do something. */
export function judge(fault: Fault): "again" | "hold" | "stop" {
  if (fault.code === "too_many_workspaces" || fault.status === 400 || fault.status === 413) return "hold";
  switch (fault.kind) {
    case "dns":
    case "refused":
    case "unreachable":
    case "proxy":
    case "busy":
    case "no_model":
    case "server":
    case "conflict":
    case "protocol":
      return "again";
    case "bad_request":
      return "hold";
    default:
      return "stop";
  }
}

export class Pusher {
  state: PushState = { phase: "idle", sent: undefined, why: "", revision: 0 };
  #base: number | null = null;
  #told = new Map<string, string>();
  #pending = new Set<string>();
  #connected = false;
  #due = false;
  #wake: (() => void) | undefined;
  #failures = 0;
  #hurry: AbortController | undefined;

  constructor(private readonly parts: PusherParts) {}

  /** These files may have changed; none: look whether the server has everything. */
  changed(paths: Iterable<string>): void {
    for (const path of paths) this.#pending.add(path);
    this.#due = true;
    this.#wake?.();
  }

  /** The server is said to be there again: no more waiting. */
  retry(): void {
    this.#hurry?.abort();
  }

  /** Until aborted. Throws a Fault that only the user can mend. */
  async run(signal: AbortSignal): Promise<never> {
    for (;;) {
      await this.#untilDue(signal);
      this.#due = false;
      try {
        await this.sync(signal);
        this.#failures = 0;
        this.parts.met?.(undefined);
      } catch (error) {
        await this.#failed(error, signal);
      }
    }
  }

  /** Until nothing is left to tell. Calling it again after an error goes on where it ended. */
  async sync(signal: AbortSignal): Promise<void> {
    let disagreements = 0;
    let missing = -1;
    while (disagreements < DISAGREEMENTS) {
      await this.#connect(signal);
      const batch = await this.#batch();
      if (batch === undefined) {
        this.#tell({ phase: "synced", sent: undefined, why: "" });
        return;
      }
      this.#tell({ phase: "pushing", why: "" });
      const answer = await this.#propose(batch, signal);
      if (answer === undefined) disagreements += 1;
      else if (answer.applied) {
        this.#applied(batch, answer.revision);
        disagreements = 0;
        missing = -1;
      } else {
        disagreements += answer.missingCount === missing ? 1 : 0;
        missing = answer.missingCount;
        if (!(await this.#send(batch, answer, signal))) {
          this.#forget();
          disagreements += 1;
        }
      }
    }
    throw new Fault(
      "busy",
      "The server and the files here do not come together: they change faster than they are sent.",
      "It is tried again by itself. A folder of build outputs belongs into .aicockpitignore.",
    );
  }

  async #connect(signal: AbortSignal): Promise<void> {
    stopIfAborted(signal);
    if (this.#connected) return;
    const status = await this.parts.gateway.createWorkspace(this.parts.name);
    stopIfAborted(signal);
    if (status.revision !== this.#base) this.#forget();
    this.#connected = true;
  }

  #forget(): void {
    this.#base = null;
    this.#told = new Map();
  }

  async #batch(): Promise<Batch | undefined> {
    const { entries } = this.parts.source;
    if (this.#base === null) return complete(entries);
    const found = difference(this.#base, this.#told, entries, this.#pending);
    if (found === undefined) this.#pending.clear();
    return found;
  }

  /** Undefined: the server stands elsewhere, and the next manifest is the complete one. */
  async #propose(batch: Batch, signal: AbortSignal): Promise<ManifestAnswer | undefined> {
    try {
      const answer = await this.parts.gateway.manifest(this.parts.name, batch.base, batch.files, batch.removed);
      stopIfAborted(signal);
      return answer;
    } catch (error) {
      const gone = error instanceof Fault && error.code === "workspace_not_found";
      const elsewhere = error instanceof Fault && error.kind === "conflict";
      if (!gone && !elsewhere) throw error;
      if (gone) this.#connected = false;
      this.#forget();
      return undefined;
    }
  }

  #applied(batch: Batch, revision: number): void {
    const { entries } = this.parts.source;
    for (const [path, hash] of batch.sent) {
      if (hash === undefined) this.#told.delete(path);
      else this.#told.set(path, hash);
    }
    for (const path of [...this.#pending]) {
      const entry = entries.get(path);
      const now = entry === undefined || entry.why ? undefined : entry.hash;
      if (this.#told.get(path) === now) this.#pending.delete(path);
    }
    this.#base = revision;
    this.#tell({ revision, sent: undefined });
  }

  /** Pushes what is missing; the next body is read while one is on its way. False: nothing to push. */
  async #send(batch: Batch, answer: ManifestAnswer, signal: AbortSignal): Promise<boolean> {
    const where = new Map<string, string>();
    for (const [path, hash] of batch.files) where.set(hash, path);
    // The list in the answer may be cut; when all are missing it can only be these.
    const all =
      answer.missingCount >= where.size ? [...where.keys()] : answer.missing.filter((hash) => where.has(hash));
    if (all.length === 0) return false;
    const total = Math.max(answer.missingCount, all.length);
    let next = 0;
    let done = 0;
    let sending: Promise<void> | undefined;
    try {
      while (next < all.length) {
        const body = await this.#read(all, next, where, signal);
        next = body.next;
        await sending;
        stopIfAborted(signal);
        done += body.looked;
        const share = done / total;
        sending =
          body.contents.length === 0
            ? undefined
            : this.parts.gateway.blobs(this.parts.name, body.contents).then(() => this.#tell({ sent: share }));
        // Awaited one round later: until then its error is nobody's.
        sending?.catch(() => {});
      }
    } finally {
      // What is on its way may arrive after the next manifest was answered, and would be sent twice.
      await sending;
    }
    return true;
  }

  async #read(hashes: readonly string[], start: number, where: ReadonlyMap<string, string>, signal: AbortSignal) {
    const contents: { hash: string; content: Uint8Array }[] = [];
    let size = 0;
    let next = start;
    while (next < hashes.length && size < BATCH_BYTES && contents.length < BATCH_FILES) {
      stopIfAborted(signal);
      const some = hashes.slice(next, next + READ_AT_ONCE);
      next += some.length;
      const read = await Promise.all(some.map((hash) => this.#content(hash, where.get(hash))));
      for (const one of read) {
        if (one === undefined) continue;
        contents.push(one);
        size += one.content.length;
      }
    }
    return { contents, next, looked: next - start };
  }

  /** A file that is not what the manifest said goes under its new hash, which the next manifest tells. */
  async #content(hash: string, path: string | undefined) {
    if (path === undefined) return undefined;
    const found = await this.parts.source.content(path);
    if (found?.hash !== hash) this.#pending.add(path);
    return found;
  }

  async #failed(error: unknown, signal: AbortSignal): Promise<void> {
    if (isAbort(error) || !(error instanceof Fault)) throw error;
    stopIfAborted(signal);
    this.#connected = false;
    this.parts.met?.(error);
    const verdict = judge(error);
    const why = `${error.message} ${error.fix}`.trim();
    if (verdict === "stop") {
      this.#tell({ phase: "failed", sent: undefined, why });
      throw error;
    }
    if (verdict === "hold") {
      this.#forget(); // whatever it was about, the complete list leaves nothing to misunderstand
      this.#tell({ phase: "held", sent: undefined, why });
      await this.#untilDue(signal, HELD_MS);
    } else {
      const doubled = Math.min(LAST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(this.#failures, 16));
      const random = this.parts.random ?? Math.random;
      const wait = Math.max(doubled * (1 - random() / 3), Math.min(error.retryAfterS ?? 0, 60) * 1000);
      this.#failures += 1;
      this.#tell({ phase: "waiting", sent: undefined, why });
      await this.#pause(wait, signal);
    }
    this.#due = true;
  }

  async #pause(milliseconds: number, signal: AbortSignal): Promise<void> {
    const hurry = new AbortController();
    this.#hurry = hurry;
    try {
      await (this.parts.wait ?? sleep)(milliseconds, AbortSignal.any([signal, hurry.signal]));
    } catch (error) {
      if (!hurry.signal.aborted || signal.aborted) throw error;
    } finally {
      this.#hurry = undefined;
    }
  }

  async #untilDue(signal: AbortSignal, limitMs?: number): Promise<void> {
    if (this.#due) return;
    await new Promise<void>((resolve, reject) => {
      const timer = limitMs === undefined ? undefined : setTimeout(() => end(resolve), limitMs);
      const stop = (): void => end(() => reject(aborted()));
      const end = (then: () => void): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", stop);
        this.#wake = undefined;
        then();
      };
      this.#wake = () => end(resolve);
      if (signal.aborted) stop();
      else signal.addEventListener("abort", stop, { once: true });
    });
  }

  #tell(change: Partial<PushState>): void {
    this.state = { ...this.state, ...change };
    this.parts.onState(this.state);
  }
}
