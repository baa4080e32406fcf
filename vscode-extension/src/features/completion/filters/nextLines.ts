/** The completion must not write what stands below the cursor anyway. */

import { isNext } from "../stop";
import type { Where } from "../where";
import { changed, dropped, type Filtered } from "./filter";

const WHY = "repeats the next line";

export function nextLines(text: string, where: Where): Filtered {
  if (where.below.length === 0) return { text };
  const lines = text.split("\n");
  const head = where.before + (lines[0] ?? "");
  if (isNext(head, where)) return dropped(WHY);
  for (let index = 1; index < lines.length; index++) {
    const line = lines[index] ?? "";
    if (line.trim() === "" || !isNext(line, where)) continue;
    return changed(text, lines.slice(0, index).join("\n"), WHY);
  }
  return { text };
}
