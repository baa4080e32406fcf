/** A request on its way: what it has answered so far, who waits for it, and when nobody does any more. */

import type { Trace } from "../timeline";
import { type Entry, sameSuffix, suffixKey } from "./cache";
import type { Spot } from "./spot";

/**
 * Characters that may be typed beyond what the stream has said. Waiting for it pays while it is likely to go on as
 * typed; where it does not, the next request has waited for nothing.
 */
const AHEAD_OF_ANSWER = 1;

export class Flight {
  readonly controller = new AbortController();
  /** What has come. */
  text = "";
  /** The result, once it is settled. */
  entry: Entry | undefined;
  /** Ended: settled, failed, superseded or no longer wanted. */
  ended = false;
  #waiters = new Set<() => void>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly spot: Spot,
    readonly trace: Trace,
  ) {}

  get isAwaited(): boolean {
    return this.#waiters.size > 0;
  }

  /** Whether its answer is, or may still be, what belongs to this newer place: typed on as it says. */
  agrees(spot: Spot): boolean {
    const base = this.spot;
    if (this.ended || base.seed !== spot.seed || !sameSuffix(suffixKey(base.suffix), spot.suffix)) return false;
    if (!spot.prefix.startsWith(base.prefix)) return false;
    const typed = spot.prefix.slice(base.prefix.length);
    if (typed.length <= this.text.length) return this.text.startsWith(typed);
    return typed.startsWith(this.text) && typed.length - this.text.length <= AHEAD_OF_ANSWER;
  }

  /** Until something new is known; at once when it has ended, or when the signal is aborted. */
  changed(signal: AbortSignal): Promise<void> {
    if (this.ended || signal.aborted) return Promise.resolve();
    clearTimeout(this.#timer);
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiters.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiters.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  said(text: string): void {
    this.text += text;
    this.#wake();
  }

  end(entry?: Entry): void {
    this.entry = entry;
    this.ended = true;
    clearTimeout(this.#timer);
    this.#wake();
  }

  /** Ended from this side: the engine is freed as soon as the connection is closed. */
  abort(): void {
    this.end();
    this.controller.abort();
  }

  /** Somebody will come for it within this time; else `late` is called. */
  expect(milliseconds: number, late: () => void): void {
    clearTimeout(this.#timer);
    if (!this.ended) this.#timer = setTimeout(late, milliseconds);
  }

  #wake(): void {
    for (const wake of [...this.#waiters]) wake();
  }
}
