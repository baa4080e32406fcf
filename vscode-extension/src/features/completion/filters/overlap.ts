/** The end of a completion that is the beginning of what follows the cursor: `foo(█)` needs no second bracket. */

import { scan } from "../brackets";
import type { Where } from "../where";
import { changed, type Filtered } from "./filter";

const WHY = "its end stands behind the cursor already";
const CLOSERS = /^[)\]}]+[;,:]?$/;
const QUOTES = /^["'`]+/;

export function overlap(text: string, where: Where): Filtered {
  const after = where.after.trimEnd();
  if (after === "") return belowToo(text, where);
  const body = text.trimEnd();
  for (let size = Math.min(body.length, after.length); size > 0; size--) {
    const shared = after.slice(0, size);
    if (body.endsWith(shared) && counts(body, shared, size === after.length, where)) {
      return changed(text, body.slice(0, body.length - size), WHY);
    }
  }
  const rest = after.trim();
  const inside = rest.length >= 4 && /\w/.test(rest) ? body.lastIndexOf(rest) : -1;
  return inside < 0 ? { text } : changed(text, body.slice(0, inside), WHY);
}

/** A few letters may be the same by chance, and a bracket may close one of the completion's own. */
function counts(text: string, shared: string, isAll: boolean, where: Where): boolean {
  const visible = shared.trim();
  if (visible === "") return false;
  if (CLOSERS.test(visible)) {
    const size = shared.length;
    const closers = visible.replace(/[;,:]$/, "").length;
    return scan(text, where.language).closed.filter((one) => one.at >= text.length - size).length >= closers;
  }
  if (QUOTES.test(visible)) return quotes(text, visible[0] ?? "") % 2 === 1;
  return isAll || /^[;,:]$/.test(visible) || (visible.length >= 4 && /\W/.test(visible));
}

function quotes(text: string, quote: string): number {
  return text.split(quote).length - 1;
}

/** Nothing follows on the line: the last lines may be the first ones below. */
function belowToo(text: string, where: Where): Filtered {
  const lines = text.split("\n");
  const below = where.below;
  for (let size = Math.min(lines.length - 1, below.length, 8); size > 0; size--) {
    const last = lines.slice(-size);
    if (!last.every((line, index) => line.trimEnd() === below[index]?.trimEnd())) continue;
    if (last.some((line) => /\w{2}/.test(line)) || closesNothing(text, last, where)) {
      return changed(text, lines.slice(0, -size).join("\n"), WHY);
    }
  }
  return { text };
}

function closesNothing(text: string, last: readonly string[], where: Where): boolean {
  const brackets = last.join("").replace(/[^)\]}]/g, "").length;
  return brackets > 0 && scan(text, where.language).closed.length >= brackets;
}
