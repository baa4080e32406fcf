/** Notices with a button: what the button does, as long as it may be pressed. */

import type { Desk } from "./desk";

const MOST = 10;

export class Offers {
  readonly #acts = new Map<string, () => Promise<void>>();

  constructor(private readonly desk: Desk) {}

  /** One line with a button, which works once. */
  make(text: string, label: string, act: () => Promise<void>): void {
    const token = this.desk.id();
    this.#acts.set(token, act);
    for (const oldest of this.#acts.keys()) if (this.#acts.size > MOST) this.#acts.delete(oldest);
    this.desk.post({ type: "notice", text, action: { label, token } });
  }

  async take(token: string): Promise<void> {
    const act = this.#acts.get(token);
    this.#acts.delete(token);
    await act?.();
  }
}
