/** Closing brackets that close nothing: what is open before the cursor may be closed behind it already. */

import { closerOf, hasBrackets, missingClosers, scan } from "../brackets";
import { isClosers, type Where } from "../where";
import { changed, type Filtered } from "./filter";

/** Of the text before the cursor; further up nothing is open that an honest completion would close. */
const LOOK_BACK = 6_000;

export function brackets(text: string, where: Where): Filtered {
  if (!hasBrackets(where.language)) return { text };
  const closed = scan(text, where.language).closed;
  if (closed.length === 0) return { text };
  const allowed = allowedClosers(where);
  for (let index = 0; index < closed.length; index++) {
    const closer = closed[index];
    if (closer === undefined || allowed[index] === closer.bracket) continue;
    return changed(text, text.slice(0, closer.at).trimEnd(), "closed a bracket that is not open");
  }
  return { text };
}

/** Those behind the cursor on its line (the completion takes their place), then what nothing closes yet. */
function allowedClosers(where: Where): readonly string[] {
  const prefix = where.prefix.slice(-LOOK_BACK);
  const own = isClosers(where.after, where.language)
    ? scan(where.after, where.language).closed.map((one) => one.bracket)
    : [];
  const further = missingClosers(prefix, where.suffix, where.language);
  if (own.length === 0) return further;
  const open = [...scan(prefix, where.language).open].reverse().map((one) => closerOf(one.bracket));
  const fits = own.every((bracket, index) => open[index] === bracket);
  return fits ? [...own, ...missingBehind(where, prefix, own.length)] : own;
}

/** What nothing closes once the line's own closers have done their part. */
function missingBehind(where: Where, prefix: string, own: number): readonly string[] {
  const open = scan(prefix, where.language).open;
  const cut = open.at(-own)?.at ?? prefix.length;
  return missingClosers(prefix.slice(0, cut), where.suffix.slice(where.after.length), where.language);
}
