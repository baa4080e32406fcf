/** A completion that only writes the lines above the cursor once more. */

import type { Where } from "../where";
import { dropped, type Filtered } from "./filter";

/** Shorter lines are alike by chance: `}`, `break;`. */
const TELLING = 8;

export function sameAsAbove(text: string, where: Where): Filtered {
  const own = where.before.trim();
  const lines = (where.before + text).split("\n").filter((line) => line.trim() !== "");
  const above = where.above.slice(-lines.length);
  if (lines.length === 0 || above.length < lines.length) return { text };
  const same = lines.every((line, index) => plain(line) === plain(above[index] ?? ""));
  const telling = lines.some((line) => /\w/.test(line) && line.trim().length >= TELLING);
  // Who typed half of the line again wants it again.
  const wanted = own.length * 2 >= (lines[0] ?? "").trim().length;
  return same && telling && !wanted ? dropped("repeats the line above") : { text };
}

function plain(line: string): string {
  return line.replace(/\s+/g, " ").trim();
}
