/**
 * Puts a code block of an answer into a file: the whole file, the parts between "... existing code ..." marks, a symbol of
 * the same name, or lines between two anchors. Pure. What it does not know for sure it does not do.
 */

import { declaredIn, extentOf, findDeclaration, nameIn } from "./declarations";

export type Merged =
  /** `why`: in a few words, for the title of the diff. */
  | { readonly kind: "merged"; readonly text: string; readonly why: string }
  | { readonly kind: "same" }
  /** The person chooses. */
  | { readonly kind: "unsure"; readonly why: string };

/** Lines from 1, both included: what the question was about. */
export interface Selected {
  readonly from: number;
  readonly to: number;
  /** What stood there then. */
  readonly text: string;
}

/** Most of a file's lines stand in the block: it is the file. */
const WHOLE_SHARE = 0.6;

/** `current` with `code` in its place. Line endings stay the file's own. */
export function merge(current: string, code: string, selected?: Selected): Merged {
  const crlf = current.includes("\r\n");
  const file = current.replaceAll("\r\n", "\n");
  const block = code.replaceAll("\r\n", "\n").replace(/^\n+/, "").trimEnd();
  const result = mergeLines(file, block, selected);
  if (result.kind !== "merged") return result;
  if (result.text === file) return { kind: "same" };
  return crlf ? { ...result, text: result.text.replaceAll("\n", "\r\n") } : result;
}

function mergeLines(file: string, block: string, selected: Selected | undefined): Merged {
  if (block.trim() === "") return { kind: "unsure", why: "the block is empty" };
  if (file.trim() === "") return { kind: "merged", text: `${block}\n`, why: "the file is empty" };
  const lines = file.split("\n");
  const parts = segments(block);
  if (parts.length > 1 || parts[0]?.open === true) return withMarks(lines, parts);
  const code = block.split("\n");
  if (isWhole(lines, code)) return { kind: "merged", text: ended(block, file), why: "the whole file" };
  const bySelection = selected === undefined ? undefined : inSelection(lines, code, selected);
  if (bySelection !== undefined) return bySelection;
  return (
    bySymbols(lines, code) ??
    byAnchors(lines, code) ?? { kind: "unsure", why: "nothing in the file says where it belongs" }
  );
}

function ended(block: string, file: string): string {
  return file.endsWith("\n") ? `${block}\n` : block;
}

/** Whether the block is meant to be the file: it has most of its lines, or it begins and ends as the file does. */
function isWhole(lines: readonly string[], code: readonly string[]): boolean {
  const had = significant(lines);
  const has = new Set(significant(code));
  if (had.length === 0) return true;
  const kept = had.filter((line) => has.has(line)).length / had.length;
  if (kept >= WHOLE_SHARE) return true;
  const starts = had[0] === significant(code)[0];
  return starts && had.at(-1) === significant(code).at(-1) && had.length > 3 && kept >= 0.3;
}

/** Lines that say something: no blanks, no lone brackets. */
function significant(lines: readonly string[]): readonly string[] {
  return lines.map((line) => line.trim()).filter((line) => /\w/.test(line));
}

function inSelection(lines: readonly string[], code: readonly string[], selected: Selected): Merged | undefined {
  const wanted = selected.text.replaceAll("\r\n", "\n").replace(/\n$/, "").split("\n");
  if (wanted.every((line) => line.trim() === "")) return undefined;
  const at = [selected.from - 1, ...lines.keys()].find((from) =>
    wanted.every((line, index) => lines[from + index] === line),
  );
  if (at === undefined) return undefined;
  const names = declaredIn(wanted);
  const others = declaredIn(code).filter((name) => !names.includes(name));
  if (names.length > 0 && others.length > 0 && names.every((name) => !declaredIn(code).includes(name)))
    return undefined;
  const fitted = indented(code, indentOf(wanted));
  return { kind: "merged", text: replaced(lines, at, at + wanted.length, fitted), why: "the selected lines" };
}

/** Each declaration of the block takes the place of the file's one of that name; new ones stand beside their neighbours. */
function bySymbols(lines: readonly string[], code: readonly string[]): Merged | undefined {
  const pieces = declarations(code, lines);
  if (pieces === undefined) return undefined;
  let now = [...lines];
  let last: number | undefined;
  let indent = "";
  const replacedNames: string[] = [];
  let pending: Piece[] = [];
  for (const piece of pieces) {
    const found = findDeclaration(now, piece.name);
    if (found === "many") return undefined;
    if (found === undefined) {
      if (last === undefined) pending.push(piece);
      else {
        const fitted = [...blank(piece), ...indented(piece.lines, indent)];
        now.splice(last, 0, ...fitted);
        last += fitted.length;
      }
      continue;
    }
    const extent = extentOf(now, found);
    const first = piece.leading ? extent.leading : extent.from;
    indent = indentOf([now[extent.from] ?? ""]);
    const before = pending.flatMap((each, at) => [...each.lines, ...blank(pending[at + 1] ?? piece)]);
    const fitted = [...indented(before, indent), ...indented(piece.lines, indent)];
    pending = [];
    now = now.toSpliced(first, extent.to - first, ...fitted);
    last = first + fitted.length;
    replacedNames.push(piece.name);
  }
  if (replacedNames.length === 0) return undefined;
  return { kind: "merged", text: now.join("\n"), why: replacedNames.slice(0, 3).join(", ") };
}

interface Piece {
  readonly name: string;
  readonly lines: readonly string[];
  /** Comments or decorators stand above its declaration. */
  readonly leading: boolean;
  /** Empty lines above it. */
  readonly above: number;
}

/** As in the block; a neighbour of more than a line gets one at least. */
function blank({ above, lines }: Piece): readonly string[] {
  return Array.from({ length: lines.length > 1 ? Math.max(1, above) : above }, () => "");
}

const IMPORT = /^(?:import|from|use|using|require|#include)\b/;

/** The block as declarations and nothing else but imports that the file has; undefined: it has other code too. */
function declarations(code: readonly string[], file: readonly string[]): readonly Piece[] | undefined {
  const pieces: Piece[] = [];
  let at = 0;
  let above = 0;
  while (at < code.length) {
    const line = code[at] ?? "";
    if (line.trim() === "" || (IMPORT.test(line) && file.includes(line))) {
      above = line.trim() === "" ? above + 1 : 0;
      at++;
      continue;
    }
    const start = at;
    let name = declaredIn([code[at] ?? ""])[0];
    while (name === undefined && at < code.length && /^\s*(?:\/\/|\/\*|\*|#|@|"""|''')/.test(code[at] ?? "")) {
      at++;
      name = declaredIn([code[at] ?? ""])[0];
    }
    if (name === undefined) return undefined;
    const { to } = extentOf(code, at);
    pieces.push({ name, lines: code.slice(start, to), leading: at > start, above });
    above = 0;
    at = to;
  }
  return pieces.length === 0 ? undefined : pieces;
}

/** The block's first and last lines stand once in the file: what is between them is replaced. */
function byAnchors(lines: readonly string[], code: readonly string[]): Merged | undefined {
  const range = anchored(lines, code, 0);
  if (range === undefined) return undefined;
  const fitted = indented(code, indentOf(lines.slice(range.from, range.from + 1)));
  return {
    kind: "merged",
    text: replaced(lines, range.from, range.to, fitted),
    why: "between its first and last line",
  };
}

interface Range {
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
}

function anchored(lines: readonly string[], code: readonly string[], after: number): Range | undefined {
  const first = code.findIndex((line) => /\w/.test(line));
  const last = code.findLastIndex((line) => /\w/.test(line));
  if (first < 0 || last <= first) return undefined;
  const from = onlyLine(lines, code[first] ?? "", after);
  if (from === undefined) return undefined;
  const to = onlyLine(lines, code[last] ?? "", from + 1);
  if (to === undefined) return undefined;
  const tail = code.length - 1 - last;
  const closing = code.slice(last + 1).every((line, index) => (lines[to + 1 + index] ?? "").trim() === line.trim());
  return {
    from: from - first >= after ? from - leadingSame(lines, code, from, first) : from,
    to: to + 1 + (closing ? tail : 0),
  };
}

/** How many lines above the first anchor (lone brackets, blanks) are in the file too. */
function leadingSame(lines: readonly string[], code: readonly string[], from: number, first: number): number {
  let same = 0;
  while (same < first && (lines[from - 1 - same] ?? "").trim() === (code[first - 1 - same] ?? "").trim()) same++;
  return same;
}

function onlyLine(lines: readonly string[], line: string, after: number): number | undefined {
  const wanted = line.trim();
  let found: number | undefined;
  for (let at = after; at < lines.length; at++) {
    if ((lines[at] ?? "").trim() !== wanted) continue;
    if (found !== undefined) return undefined;
    found = at;
  }
  return found;
}

interface Segment {
  readonly lines: readonly string[];
  /** A mark stands before the first or after this one. */
  readonly open: boolean;
}

const MARK =
  /^\s*(?:(?:\/\/|#|--|;|%|\/\*|<!--|\{\/\*)\s*(?:\.{3}|…).*|(?:\.{3}|…)\s*(?:existing code|rest of|unchanged).*|(?:\.{3}|…))\s*(?:\*\/\}?|-->)?\s*$/i;
const PROSE_MARK =
  /^\s*(?:\/\/|#|--|\/\*|<!--)\s*(?:(?:the )?rest of (?:the )?(?:code|file|function|class)|(?:other|remaining|existing|unchanged) (?:code|methods|functions|imports|lines)\b).*$/i;

/** The block, parted at its "... existing code ..." marks. */
function segments(block: string): readonly Segment[] {
  const found: Segment[] = [];
  let lines: string[] = [];
  let marked = false;
  for (const line of block.split("\n")) {
    if (!MARK.test(line) && !PROSE_MARK.test(line)) {
      lines.push(line);
      continue;
    }
    if (lines.some((each) => each.trim() !== "")) found.push({ lines: trimmed(lines), open: true });
    lines = [];
    marked = true;
  }
  if (lines.some((each) => each.trim() !== "")) found.push({ lines: trimmed(lines), open: marked });
  return found;
}

function trimmed(lines: readonly string[]): readonly string[] {
  const from = lines.findIndex((line) => line.trim() !== "");
  const to = lines.findLastIndex((line) => line.trim() !== "");
  return lines.slice(from, to + 1);
}

/** Each segment finds its place behind the one before it; what the marks stand for stays. */
function withMarks(lines: readonly string[], parts: readonly Segment[]): Merged {
  let now = [...lines];
  let after = 0;
  for (const part of parts) {
    const place = segmentPlace(now, part.lines, after);
    if (place === undefined)
      return { kind: "unsure", why: `no place for "${(part.lines[0] ?? "").trim().slice(0, 40)}"` };
    const fitted = indented(part.lines, indentOf(now.slice(place.from, place.from + 1)));
    now = now.toSpliced(place.from, place.to - place.from, ...fitted);
    after = place.from + fitted.length;
  }
  return { kind: "merged", text: now.join("\n"), why: "its parts, the marked ones as they were" };
}

/** By its own lines that are in the file: from the first of them to the last; else a whole declaration by name. */
function segmentPlace(lines: readonly string[], code: readonly string[], after: number): Range | undefined {
  const known: { code: number; file: number }[] = [];
  let from = after;
  for (const [index, line] of code.entries()) {
    if (!/\w/.test(line)) continue;
    const at = nextLine(lines, line, from);
    if (at === undefined) continue;
    known.push({ code: index, file: at });
    from = at + 1;
  }
  const first = known[0];
  const last = known.at(-1);
  const name = declaredIn(code)[0];
  if (name !== undefined && first?.code !== 0) {
    const found = findDeclaration(lines, name);
    if (typeof found === "number" && found >= after && declarations(code, lines)?.length === 1) {
      return { from: found, to: extentOf(lines, found).to };
    }
  }
  if (first === undefined || last === undefined || first.code > 0) return undefined;
  const knownTo = last.file + 1 + closers(lines, code, last);
  if (nameIn(code[0] ?? "") === undefined) return { from: first.file, to: knownTo };
  const own = extentOf(code, 0).to;
  if (!balanced(code.slice(0, own))) return { from: first.file, to: knownTo };
  const end = extentOf(lines, first.file).to;
  const rest = code.slice(own);
  const same = rest.every((line, index) => (lines[end + index] ?? "\0").trim() === line.trim());
  return { from: first.file, to: same ? end + rest.length : Math.max(end, knownTo) };
}

/** Lone brackets behind the last known line that are in both. */
function closers(lines: readonly string[], code: readonly string[], last: { code: number; file: number }): number {
  let same = 0;
  while (
    last.code + 1 + same < code.length &&
    (lines[last.file + 1 + same] ?? "\0").trim() === (code[last.code + 1 + same] ?? "").trim()
  )
    same++;
  return same;
}

function nextLine(lines: readonly string[], line: string, after: number): number | undefined {
  const wanted = line.trim();
  const unique = wanted.length > 8;
  for (let at = after; at < lines.length; at++)
    if ((lines[at] ?? "").trim() === wanted && (unique || at - after < 40)) return at;
  return undefined;
}

function balanced(code: readonly string[]): boolean {
  let depth = 0;
  for (const letter of code.join("\n")) {
    if (letter === "{" || letter === "(" || letter === "[") depth++;
    else if (letter === "}" || letter === ")" || letter === "]") depth--;
  }
  return depth === 0;
}

/** Of the first line that has text. */
export function indentOf(lines: readonly string[]): string {
  return /^[ \t]*/.exec(lines.find((line) => line.trim() !== "") ?? "")?.[0] ?? "";
}

/** The lines moved so that the first one begins at `indent`. */
export function indented(lines: readonly string[], indent: string): readonly string[] {
  const own = indentOf(lines);
  if (own === indent) return lines;
  return lines.map((line) => {
    if (line.trim() === "") return "";
    if (line.startsWith(own)) return indent + line.slice(own.length);
    return line;
  });
}

function replaced(lines: readonly string[], from: number, to: number, by: readonly string[]): string {
  return lines.toSpliced(from, to - from, ...by).join("\n");
}
