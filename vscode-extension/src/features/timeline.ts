/** The last requests, step by step: what the panel "why slow, why nothing" shows. Bounded; in memory only. */

import type { Usage } from "../api/gateway";

export type Feature = "completion" | "edit" | "chat" | "terminal" | "docs";

/** One request of ours. Times are milliseconds since `began` (a `performance.now()`); undefined: it never came to that. */
export interface Trace {
  readonly id: number;
  readonly feature: Feature;
  /** `Date.now()` when it began. */
  readonly at: number;
  readonly model: string;
  /** For people: the file and line, or the question's first words. */
  readonly what: string;
  requestId?: string;
  /** From the user's act, as the extension host was told of it, until the request left. */
  sentMs?: number;
  headersMs?: number;
  firstTokenMs?: number;
  lastTokenMs?: number;
  /** Until it was on the screen, filters included. */
  shownMs?: number;
  usage?: Usage;
  /**
   * Of a completion, sent: text before and behind the cursor, and how much of it, in the order that the server puts it in (the
   * cursor's line behind the suffix), begins as the request before did.
   */
  characters?: number;
  repeated?: number;
  /** Prompt tokens, and those of them that the server expected to be cached, where nobody counted them. */
  expected?: { readonly cached: number; readonly prompt: number };
  /** The server's word on context and route: response headers. */
  context?: string;
  route?: string;
  /** What it came to: `shown`, `accepted`, `typed through`, `superseded`, `nothing`, `failed`, … */
  outcome: string;
  /** Why, in a sentence: the filter that dropped it, the error and its fix. */
  why: string;
}

const KEPT = 200;

export class Timeline {
  #traces: Trace[] = [];
  #next = 1;
  #listeners = new Set<(trace: Trace) => void>();

  constructor(
    private readonly kept: number = KEPT,
    private readonly clock: () => number = Date.now,
  ) {}

  begin(feature: Feature, model: string, what: string): Trace {
    const trace: Trace = { id: this.#next++, feature, at: this.clock(), model, what, outcome: "running", why: "" };
    this.#traces.push(trace);
    if (this.#traces.length > this.kept) this.#traces.shift();
    return trace;
  }

  /** Tell the listeners; call it when a trace has changed for the better or has ended. */
  update(trace: Trace, change: Partial<Trace>): void {
    Object.assign(trace, change);
    for (const listener of this.#listeners) listener(trace);
  }

  /** Newest first. */
  all(): readonly Trace[] {
    return [...this.#traces].reverse();
  }

  last(feature?: Feature): Trace | undefined {
    return this.#traces.findLast((trace) => feature === undefined || trace.feature === feature);
  }

  onChange(listener: (trace: Trace) => void): { dispose(): void } {
    this.#listeners.add(listener);
    return { dispose: () => this.#listeners.delete(listener) };
  }
}
