/** Code of an answer as it goes into an editor or a terminal. Pure. */

import { indented, indentOf } from "./merge";

/** `before`: the text of the line before the cursor. The code gets its indentation; the first line stands behind it. */
export function forCursor(code: string, before: string): string {
  const lines = code.replaceAll("\r\n", "\n").replace(/^\n+/, "").trimEnd().split("\n");
  const indent = indentOf([`${before}x`]);
  const fitted = indented(lines, indent);
  const first = (fitted[0] ?? "").slice(indent.length);
  return [first, ...fitted.slice(1)].join("\n");
}

/** Shell examples are often written with a prompt sign; the lines without one are then output. */
export function commandOf(code: string): string {
  const lines = code.trim().split("\n");
  const prompted = lines.filter((line) => /^\s*[$>] /.test(line));
  return prompted.length === 0 ? lines.join("\n") : prompted.map((line) => line.replace(/^\s*[$>] /, "")).join("\n");
}

/** The least part of a text that has to be replaced. Offsets in characters; `text` takes the place of `from` to `to`. */
export function smallestChange(
  before: string,
  after: string,
): { readonly from: number; readonly to: number; readonly text: string } {
  const most = Math.min(before.length, after.length);
  let from = 0;
  while (from < most && before[from] === after[from]) from++;
  let end = 0;
  while (end < most - from && before[before.length - 1 - end] === after[after.length - 1 - end]) end++;
  // Half of a pair (an emoji's) or of a line ending is no place to cut.
  if (from > 0 && /[\ud800-\udbff\r]/.test(before[from - 1] ?? "")) from--;
  if (end > 0 && /[\udc00-\udfff\n]/.test(before[before.length - end] ?? "")) end--;
  return { from, to: before.length - end, text: after.slice(from, after.length - end) };
}
