/** The model's limit may end it in the middle of a line: of several lines the last is then left out. */

import type { Where } from "../where";
import { changed, type Filtered } from "./filter";

export function cutOff(text: string, where: Where): Filtered {
  const end = text.lastIndexOf("\n");
  if (where.cutOff !== true || end < 0 || text.slice(0, end).trim() === "") return { text };
  return changed(text, text.slice(0, end), "its last line was not finished");
}
