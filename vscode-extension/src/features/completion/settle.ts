/** From the model's words to what is shown: stop rules, filters, and how much behind the cursor it takes the place of. */

import { scan } from "./brackets";
import { filtered, told } from "./filters";
import { stopAt } from "./stop";
import { isClosers, type Where } from "./where";

export interface Settled {
  /** Empty: nothing to show. */
  readonly text: string;
  /** Characters behind the cursor, on its line, that the text takes the place of: it contains them itself. */
  readonly replace: number;
  /** Why nothing, or what was changed; empty where it is as the model said it. */
  readonly why: string;
}

/** `finish` is the model's own word on why it ended; undefined where it was stopped. */
export function settle(raw: string, where: Where, finish?: string): Settled {
  const stop = stopAt(raw, where, true);
  const said = stop?.text ?? raw;
  const outcome = filtered(said, finish === "length" && stop?.why === "" ? { ...where, cutOff: true } : where);
  const stopped = said.trim() === "" && raw.trim() !== "" && stop !== undefined;
  const why = stopped ? `stopped at once: ${stop.why}` : told(outcome);
  return { text: stopped ? "" : outcome.text, replace: replaced(outcome.text, where.after, where.language), why };
}

/** The editor shows a text in the middle of a line only if it contains what it replaces. */
export function replaced(text: string, after: string, language: string): number {
  const own = after.trim();
  if (own === "" || !isClosers(after, language)) return 0;
  const closed = scan(text, language).closed;
  const first = closed[0];
  if (first === undefined) return /^["'`]+[;,]?$/.test(own) && text.includes(`${own}\n`) ? after.trimEnd().length : 0;
  const quotes = /^["'`]*/.exec(own)?.[0].length ?? 0;
  if (text.startsWith(own, first.at - quotes)) return after.trimEnd().length;
  const closers = scan(after, language).closed;
  const last = closers[Math.min(closed.length, closers.length) - 1];
  return last === undefined ? 0 : last.at + 1;
}
