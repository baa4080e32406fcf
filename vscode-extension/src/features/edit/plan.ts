/** The smallest edits that turn what a document shows into what it should show. */

import { compare } from "./diff";

/** Replace from here to there; lines and characters count from 0. */
export interface TextChange {
  readonly startLine: number;
  readonly startCharacter: number;
  readonly endLine: number;
  readonly endCharacter: number;
  readonly text: string;
}

/** Replaces `count` lines from `first` by `wanted`, change by change; untouched lines keep their marks and folds. */
export function planEdits(
  document: readonly string[],
  first: number,
  count: number,
  wanted: readonly string[],
  eol: string,
): readonly TextChange[] {
  const hunks: Hunk[] = [];
  let at = first;
  let from = first;
  let fresh: string[] = [];
  const flush = () => {
    if (at > from || fresh.length > 0) hunks.push({ from, to: at, lines: fresh });
    fresh = [];
  };
  for (const row of compare(document.slice(first, first + count), wanted)) {
    if (row.kind === "new") fresh.push(row.text);
    else if (row.kind === "old") at++;
    else {
      flush();
      at++;
      from = at;
    }
  }
  flush();
  return apart(document, hunks).map((hunk) => replaceLines(document, hunk.from, hunk.to, hunk.lines, eol));
}

/** Lines `from` to `to` (exclusive) become `lines`. */
interface Hunk {
  readonly from: number;
  readonly to: number;
  readonly lines: readonly string[];
}

/** The one at the document's end begins a line earlier: with only that line between, it could touch the one before. */
function apart(document: readonly string[], hunks: readonly Hunk[]): readonly Hunk[] {
  const [one, last] = hunks.slice(-2);
  if (one === undefined || last === undefined || last.to < document.length || one.to < last.from - 1) return hunks;
  const lines = [...one.lines, ...document.slice(one.to, last.from), ...last.lines];
  return [...hunks.slice(0, -2), { from: one.from, to: last.to, lines }];
}

/** The document's lines after `planEdits`. An empty document has one empty line. */
export function afterEdits(
  document: readonly string[],
  first: number,
  count: number,
  wanted: readonly string[],
): readonly string[] {
  const lines = [...document.slice(0, first), ...wanted, ...document.slice(first + count)];
  return lines.length > 0 ? lines : [""];
}

/** At the document's end the line break before the lines goes along. */
function replaceLines(
  document: readonly string[],
  from: number,
  to: number,
  lines: readonly string[],
  eol: string,
): TextChange {
  if (to < document.length) {
    const text = lines.map((line) => line + eol).join("");
    return { startLine: from, startCharacter: 0, endLine: to, endCharacter: 0, text };
  }
  const end = { endLine: document.length - 1, endCharacter: document.at(-1)?.length ?? 0 };
  if (from === 0) return { startLine: 0, startCharacter: 0, ...end, text: lines.join(eol) };
  const start = { startLine: from - 1, startCharacter: document[from - 1]?.length ?? 0 };
  return { ...start, ...end, text: lines.map((line) => eol + line).join("") };
}
