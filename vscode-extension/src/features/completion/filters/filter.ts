/** What a filter is. Each lives in a file of its own, is pure, and says why it changed or dropped a text. */

import type { Where } from "../where";

export interface Filtered {
  /** Empty: nothing is left to show. */
  readonly text: string;
  /** Set when, and only when, the text was changed. */
  readonly why?: string;
}

/** `text` is the model's answer up to the stop; `where` is the place it is meant for. */
export type Filter = (text: string, where: Where) => Filtered;

/** As it was, if nothing is different. */
export function changed(before: string, after: string, why: string): Filtered {
  return before === after ? { text: before } : { text: after, why };
}

export function dropped(why: string): Filtered {
  return { text: "", why };
}
