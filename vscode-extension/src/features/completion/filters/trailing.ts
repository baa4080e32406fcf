/** No blanks at the end of a line and no empty lines at the end, but where what follows needs its distance. */

import { scan } from "../brackets";
import type { Where } from "../where";
import { changed, type Filtered } from "./filter";

export function trailing(text: string, where: Where): Filtered {
  // Two blanks at the end of a line are a line break in Markdown.
  const lines = text.split("\n").map((line) => (where.language === "markdown" ? line : line.trimEnd()));
  const bare = lines.join("\n").trimEnd();
  return changed(text, bare === "" ? "" : bare + distance(text, bare, where), "blanks at its end");
}

/** A blank before the word behind the cursor; a new line before the bracket that closes what the text has unfolded. */
function distance(text: string, bare: string, where: Where): string {
  if (/^[\w"'`$@]/.test(where.after) && /[ \t]$/.test(text) && !bare.includes("\n")) return " ";
  const unfolds = bare.startsWith("\n") && /^\s*([)\]}]|<\/)/.test(where.after);
  if (!unfolds || scan(bare, where.language).closed.length > 0) return "";
  return `\n${/^\s*/.exec(where.before)?.[0] ?? ""}`;
}
