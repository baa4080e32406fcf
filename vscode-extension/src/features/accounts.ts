/** The server's accounts of requests: asked for once each, a few at a time, and kept. */

import type { Account } from "../api/gateway";

const AT_ONCE = 5;
const KEPT = 200;
const WAITING = 200;

/** What is known of one request: null: the server knows nothing of it. */
export type Known = Account | null;

export class Accounts {
  readonly #known = new Map<string, Known>();
  readonly #asking = new Set<string>();
  #waiting: string[] = [];

  /** `changed` is told the id of each that has come in. */
  constructor(
    private readonly fetch: (requestId: string) => Promise<Account | undefined>,
    private readonly changed: (requestId: string) => void,
    private readonly atOnce: number = AT_ONCE,
    private readonly kept: number = KEPT,
  ) {}

  /** Undefined: not asked, or not here yet. */
  get(requestId: string): Known | undefined {
    return this.#known.get(requestId);
  }

  /** Ask for those that are not known; the latest wishes come first, since they are on the screen now. */
  want(requestIds: readonly string[]): void {
    const fresh = requestIds.filter((id) => !this.#known.has(id) && !this.#asking.has(id));
    const rest = this.#waiting.filter((id) => !fresh.includes(id));
    this.#waiting = [...new Set(fresh), ...rest].slice(0, WAITING);
    this.#next();
  }

  /** Engines that answered, with how many requests each had, the busiest first. */
  engines(): readonly (readonly [engine: string, requests: number])[] {
    const counted = new Map<string, number>();
    for (const account of this.#known.values()) {
      if (account?.engine) counted.set(account.engine, (counted.get(account.engine) ?? 0) + 1);
    }
    return [...counted].sort((one, other) => other[1] - one[1]);
  }

  /** Another server, or its end: what is under way is not waited for. */
  clear(): void {
    this.#known.clear();
    this.#waiting = [];
  }

  #next(): void {
    while (this.#asking.size < this.atOnce) {
      const id = this.#waiting.shift();
      if (id === undefined) return;
      this.#asking.add(id);
      void this.#ask(id);
    }
  }

  async #ask(id: string): Promise<void> {
    let account: Account | undefined;
    let failed = false;
    try {
      account = await this.fetch(id);
    } catch {
      failed = true; // a server that is away now may tell later: asked again when the row is seen again
    }
    this.#asking.delete(id);
    if (!failed) {
      this.#known.set(id, account ?? null);
      const oldest = this.#known.keys().next().value;
      if (this.#known.size > this.kept && oldest !== undefined) this.#known.delete(oldest);
      this.changed(id);
    }
    this.#next();
  }
}
