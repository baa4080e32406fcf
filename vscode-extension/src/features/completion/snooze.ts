/** Quiet for a while: completions pause until a time, or until the editor starts again. */

const LONGEST_TIMER = 2 ** 31;

export const SNOOZES = [5, 15, 60] as const;

/** What the status bar shows of it. */
export class SnoozeState {
  #until: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(private readonly clock: () => number = Date.now) {}

  /** `Date.now()` when it ends, Infinity until the restart; undefined: awake. */
  get snoozedUntil(): number | undefined {
    if (this.#until !== undefined && this.#until <= this.clock()) this.#until = undefined;
    return this.#until;
  }

  /** In words: `for 12 minutes more`; empty when awake. */
  get left(): string {
    const until = this.snoozedUntil;
    if (until === undefined) return "";
    if (until === Number.POSITIVE_INFINITY) return "until the editor starts again";
    const minutes = Math.ceil((until - this.clock()) / 60_000);
    return minutes === 1 ? "for a minute more" : `for ${minutes} minutes more`;
  }

  /** Minutes; Infinity: until the editor starts again. */
  snooze(minutes: number): void {
    clearTimeout(this.#timer);
    this.#until = this.clock() + minutes * 60_000;
    // A longer timer would ring at once; the clock ends such a snooze when it is next asked.
    if (minutes * 60_000 < LONGEST_TIMER) this.#timer = setTimeout(() => this.wake(), minutes * 60_000);
    this.#tell();
  }

  wake(): void {
    clearTimeout(this.#timer);
    this.#until = undefined;
    this.#tell();
  }

  onChange(listener: () => void): { dispose(): void } {
    this.#listeners.add(listener);
    return { dispose: () => this.#listeners.delete(listener) };
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#listeners.clear();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}
