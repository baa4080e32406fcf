/** A cursor inside a name: only what makes a whole name of both halves may be shown. */

import type { Where } from "../where";
import { changed, dropped, type Filtered } from "./filter";

const WHY = "the cursor is inside a word";

export function midWord(text: string, where: Where): Filtered {
  const rest = /^[\p{L}\p{N}_$]+/u.exec(where.after)?.[0];
  if (rest === undefined || !/[\p{L}\p{N}_$]$/u.test(where.before)) return { text };
  if (/^[\p{L}\p{N}_$]+$/u.test(text)) {
    return changed(text, text.endsWith(rest) ? text.slice(0, -rest.length) : text, WHY);
  }
  const joined = text.indexOf(rest);
  return joined > 0 && /^[\p{L}\p{N}_$]+$/u.test(text.slice(0, joined))
    ? changed(text, text.slice(0, joined), WHY)
    : dropped(WHY);
}
