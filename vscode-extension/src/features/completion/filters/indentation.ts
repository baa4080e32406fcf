/** Tabs and spaces as in the document, and a first line that starts where the cursor stands, not a step further. */

import { indentOf } from "../brackets";
import { opensBlock } from "../languages";
import type { Where } from "../where";
import { changed, type Filtered } from "./filter";

export function indentation(text: string, where: Where): Filtered {
  const lines = text.split("\n");
  const first = firstLine(lines, where);
  const rest = lines.slice(1).map((line) => asDocument(line, lines, where));
  return changed(text, [first, ...rest].join("\n"), "its indentation was not the document's");
}

/** Its leading blanks: none twice between words; on an empty line only up to the depth that belongs there. */
function firstLine(lines: readonly string[], where: Where): string {
  const line = lines[0] ?? "";
  const body = line.trimStart();
  const lead = line.slice(0, line.length - body.length);
  if (lead === "" || body === "") return where.before.trim() !== "" && body === "" ? "" : line;
  if (where.before.trim() !== "") return /\s$/.test(where.before) ? body : line;
  if (where.before === "") return asDocument(line, lines, where);
  const tab = where.indent.size;
  const cursor = indentOf(where.before, tab);
  const more = Math.max(0, expected(where) - cursor);
  const given = indentOf(where.before + lead, tab) - cursor;
  return blanks(Math.min(more, given), where) + body;
}

/** Columns at which the cursor's line may begin. */
function expected(where: Where): number {
  const last = where.above.at(-1);
  if (last === undefined) return 0;
  return indentOf(last, where.indent.size) + (opensBlock(last, where.language) ? where.indent.size : 0);
}

/** One line's leading blanks in the document's own kind; Makefiles' and the like stay as they are. */
function asDocument(line: string, all: readonly string[], where: Where): string {
  const body = line.trimStart();
  const lead = line.slice(0, line.length - body.length);
  if (lead === "" || where.indent.guessed || where.language === "makefile" || where.family === "prose") return line;
  if (where.indent.tabs === !lead.includes(" ")) return line;
  if (!where.indent.tabs) return lead.includes("\t") ? blanks(indentOf(lead, where.indent.size), where) + body : line;
  const size = spacesOfAStep(all);
  const steps = Math.floor(indentOf(lead, size) / size);
  const behind = indentOf(lead, size) % size;
  return "\t".repeat(steps) + " ".repeat(behind) + body;
}

/** Columns of a step in a text indented by spaces: its smallest. One lone space is an alignment, as in `/* *`. */
function spacesOfAStep(lines: readonly string[]): number {
  const widths = lines.filter((line) => line.startsWith("  ") && line.trim() !== "").map((line) => indentOf(line));
  const least = Math.min(...widths, 8);
  return least === 8 && widths.length === 0 ? 4 : Math.max(2, Math.min(least, 4));
}

function blanks(columns: number, where: Where): string {
  if (!where.indent.tabs) return " ".repeat(columns);
  return "\t".repeat(Math.floor(columns / where.indent.size)) + " ".repeat(columns % where.indent.size);
}
