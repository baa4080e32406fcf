/** Keeps hold of the lines under review while the document changes around them, and inside them. */

import { NO_BLOCK, type Row } from "./diff";
import type { TextChange } from "./plan";

/** The rows that stand in the document from line `start` on. */
export interface Region {
  readonly start: number;
  readonly rows: readonly Row[];
}

export interface Tracked extends Region {
  /** A change reached into the lines. */
  readonly inside: boolean;
}

/**
 * The region after one event's changes, in the order in which the editor tells them (each for the text as the ones
 * before have left it). `document`: the lines now. A line that was typed into keeps its kind when it was a new or a kept
 * one; an old line that was typed into is kept, as is what comes of lines of several kinds.
 */
export function track(region: Region, changes: readonly TextChange[], document: () => readonly string[]): Tracked {
  let start = region.start;
  let rows: readonly Row[] = region.rows;
  let inside = false;
  for (const change of changes) {
    const lines = touched(change, start, rows);
    const added = lines.count - (lines.last - lines.first + 1);
    if (lines.last < start) start += added;
    else if (lines.first < start + rows.length) {
      const above = Math.max(0, start - lines.first);
      const from = Math.max(0, lines.first - start);
      const to = Math.min(rows.length, lines.last - start + 1);
      const outside = above > 0 || lines.last - start >= rows.length;
      const kind = outside ? KEPT : from === to ? between(rows[from - 1], rows[from]) : kindOf(rows.slice(from, to));
      const fresh = Array.from({ length: lines.count }, () => ({ ...kind, text: "" }));
      rows = [...rows.slice(0, from), ...fresh, ...rows.slice(to)];
      start -= above;
      inside = true;
    }
  }
  if (!inside) return { start, rows, inside };
  const now = document();
  const fitting = rows.slice(0, Math.max(0, now.length - start));
  return { start, rows: fitting.map((row, at) => ({ ...row, text: now[start + at] ?? "" })), inside };
}

const KEPT = { kind: "kept", block: NO_BLOCK } as const;

interface Lines {
  readonly first: number;
  readonly last: number;
  /** Lines that stand in their place afterwards. */
  readonly count: number;
}

/** Which whole lines a change replaces, and by how many. `last` below `first`: it only puts lines between two. */
function touched(change: TextChange, start: number, rows: readonly Row[]): Lines {
  const breaks = change.text.split(/\r\n|\r|\n/).length - 1;
  const { startLine, endLine, startCharacter, endCharacter, text } = change;
  const wholeAbove =
    startCharacter === 0 && endCharacter === 0 && (text === "" ? endLine > startLine : /[\r\n]$/.test(text));
  if (wholeAbove) return { first: startLine, last: endLine - 1, count: breaks };
  const row = rows[startLine - start];
  const atEnd = row !== undefined && startCharacter === row.text.length && /^(?:[\r\n]|$)/.test(text);
  const endsLine = endLine === startLine || endCharacter === (rows[endLine - start]?.text.length ?? -1);
  if (atEnd && endsLine && (text !== "" || endLine > startLine))
    return { first: startLine + 1, last: endLine, count: breaks };
  return { first: startLine, last: endLine, count: breaks + 1 };
}

function kindOf(rows: readonly Row[]): Pick<Row, "kind" | "block"> {
  const [first] = rows;
  if (first === undefined) return KEPT;
  const same = rows.every((row) => row.kind === first.kind && row.block === first.block);
  return same && first.kind === "new" ? { kind: "new", block: first.block } : KEPT;
}

/** A line put between two is new when it continues new ones. */
function between(above: Row | undefined, below: Row | undefined): Pick<Row, "kind" | "block"> {
  if (above?.kind === "new") return { kind: "new", block: above.block };
  return below?.kind === "new" && above?.block === below.block ? { kind: "new", block: below.block } : KEPT;
}
