/** How the server stands: looks now and then, sooner when something went wrong, and at once when told. */

import { Fault, type FaultKind, isAbort } from "./fault";
import type { ConnectionState, Model } from "./gateway";

/** What a look found. */
export interface Look {
  readonly models: readonly Model[];
  readonly ready: boolean;
  readonly reason: string;
}

/** What the state depends on besides the server. */
export interface Facts {
  readonly hasKey: boolean;
  /** Nobody has set an address: what does not answer there was perhaps never set up. */
  readonly isDefault: boolean;
  /** Nothing may be sent, for instance in a folder that is not trusted. */
  readonly forbidden: { readonly why: string; readonly fix: string } | undefined;
}

/** Milliseconds. */
export interface Pace {
  readonly firstMs: number;
  readonly lastMs: number;
  readonly readyMs: number;
  /** Of those who tell or ask often: no look is younger than this. */
  readonly restMs: number;
}

const PACE: Pace = { firstMs: 1_000, lastMs: 30_000, readyMs: 30_000, restMs: 2_000 };
const CERTAIN: ReadonlySet<FaultKind> = new Set(["dns", "refused", "tls", "proxy", "unauthorized"]);
const DOUBTFUL: ReadonlySet<FaultKind> = new Set(["unreachable", "no_model", "busy", "server", "protocol"]);

/** What a fault of a look means for the state. */
function stateOf(fault: Fault, facts: Facts): ConnectionState {
  if (fault.kind === "unauthorized")
    return facts.hasKey ? { kind: "unauthorized", why: fault.message } : { kind: "no_key" };
  if (fault.kind === "no_model" || fault.kind === "busy") return { kind: "no_model", why: fault.message };
  if (fault.kind === "forbidden") return { kind: "unauthorized", why: `${fault.message} ${fault.fix}` };
  if (fault.kind === "refused" && facts.isDefault && !facts.hasKey) return { kind: "no_key" };
  return { kind: "offline", why: fault.message, fix: fault.fix };
}

/** One server's state. `look` asks it; `changed` hears each new state. Nothing runs before `start`. */
export class Monitor {
  #state: ConnectionState = { kind: "unknown" };
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looking: { readonly done: Promise<ConnectionState>; readonly abort: AbortController } | undefined;
  #failures = 0;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #running = false;
  #over = false;

  constructor(
    private readonly look: (signal: AbortSignal) => Promise<Look>,
    private readonly facts: () => Facts,
    private readonly changed: (state: ConnectionState) => void,
    private readonly pace: Pace = PACE,
    private readonly clock: () => number = () => performance.now(),
  ) {}

  get state(): ConnectionState {
    return this.#state;
  }

  /** Look now, and go on looking until disposed of. */
  start(): void {
    if (this.#over) return;
    this.#running = true;
    void this.refresh();
  }

  dispose(): void {
    this.#over = true;
    this.#running = false;
    clearTimeout(this.#timer);
    this.#looking?.abort.abort();
    this.#looking = undefined;
  }

  /** Look now, or wait for the look that is under way. Never rejects. */
  refresh(): Promise<ConnectionState> {
    if (this.#over) return Promise.resolve(this.#state);
    if (this.#looking !== undefined) return this.#looking.done;
    clearTimeout(this.#timer);
    const abort = new AbortController();
    const looking = { abort, done: this.#look(abort.signal) };
    this.#looking = looking;
    return looking.done;
  }

  /** The settings are others: what is under way says nothing any more. */
  restart(): Promise<ConnectionState> {
    this.#looking?.abort.abort();
    this.#looking = undefined;
    this.#failures = 0;
    return this.refresh();
  }

  /** The models, looked for again where none were known a moment ago. */
  async models(): Promise<readonly Model[]> {
    const rested = this.clock() - this.#lookedAt > this.pace.restMs;
    const state = this.#state.kind !== "ready" && rested ? await this.refresh() : this.#state;
    return state.kind === "ready" ? state.models : [];
  }

  /** What somebody met while working; undefined: it worked. */
  met(error: unknown): void {
    if (isAbort(error) || !this.#running) return;
    if (error === undefined) {
      if (this.#state.kind !== "ready") this.#soon();
      return;
    }
    if (!(error instanceof Fault) || this.facts().forbidden !== undefined) return;
    if (CERTAIN.has(error.kind)) this.#enter(stateOf(error, this.facts()));
    if (CERTAIN.has(error.kind) || DOUBTFUL.has(error.kind)) this.#soon();
  }

  #soon(): void {
    const rest = this.pace.restMs - (this.clock() - this.#lookedAt);
    this.#schedule(Math.max(0, Math.min(rest, this.pace.firstMs)));
  }

  async #look(signal: AbortSignal): Promise<ConnectionState> {
    const found = await this.#find(signal);
    if (signal.aborted) return this.#looking === undefined ? this.#state : await this.#looking.done;
    this.#looking = undefined;
    this.#lookedAt = this.clock();
    this.#failures = found.kind === "ready" ? 0 : this.#failures + 1;
    this.#enter(found);
    this.#schedule(this.#pause());
    return this.#state;
  }

  async #find(signal: AbortSignal): Promise<ConnectionState> {
    await Promise.resolve(); // `refresh` must have noted this look before it ends
    const facts = this.facts();
    if (facts.forbidden !== undefined) return { kind: "offline", ...facts.forbidden };
    try {
      const { models, ready, reason } = await this.look(signal);
      if (ready && models.length > 0) return { kind: "ready", models };
      return { kind: "no_model", why: reason === "" || reason === "ready" ? "No model is served." : reason };
    } catch (error) {
      if (error instanceof Fault) return stateOf(error, this.facts());
      const why = error instanceof Error ? error.message : String(error);
      return { kind: "offline", why, fix: "Check the connection." };
    }
  }

  #pause(): number {
    if (this.#state.kind === "ready") return this.pace.readyMs;
    return Math.min(this.pace.lastMs, this.pace.firstMs * 2 ** Math.min(this.#failures - 1, 16));
  }

  #schedule(milliseconds: number): void {
    clearTimeout(this.#timer);
    if (!this.#running) return;
    this.#timer = setTimeout(() => void this.refresh(), milliseconds);
    this.#timer.unref?.();
  }

  #enter(state: ConnectionState): void {
    if (this.#over || JSON.stringify(state) === JSON.stringify(this.#state)) return;
    this.#state = state;
    this.changed(state);
  }
}
