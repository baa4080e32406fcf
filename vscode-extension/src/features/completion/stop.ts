/** When a stream has said enough: pure rules on what came so far. They only ever say more with more text. */

import { indentOf, scan } from "./brackets";
import { uncovered } from "./fence";
import { closesBlock, continuesBlock, opensBlock, withoutComment } from "./languages";
import type { Where } from "./where";

export interface Stop {
  /** The text that counts. */
  readonly text: string;
  readonly why: string;
}

/** Most lines of one completion: more is not read before it is taken. */
const MOST_LINES = 32;
/** Shorter lines repeat by chance. */
const TELLING = 12;
/** Lines below the cursor that a completion may run into. */
const NEAR = 3;

/**
 * The end of the completion, if it is certain by now: the end of the line, of the statement, of the block; a gap; what
 * stands below anyway; a loop. `done`: nothing more comes, so a line without an end is whole.
 */
export function stopAt(raw: string, where: Where, done = false): Stop | undefined {
  const { text: code, state } = uncovered(raw, where.language, done);
  if (state === "waiting") return undefined;
  if (where.mode === "line") return lineEnd(code, done);
  const lines = code.split("\n");
  const whole = done ? lines.length : lines.length - 1;
  const ends: Stop[] = [];
  const add = (count: number | undefined, why: string) => {
    if (count !== undefined) ends.push({ text: lines.slice(0, count).join("\n"), why });
  };
  const end = walk(lines, whole, where);
  add(end?.line, end?.why ?? "");
  add(gapIn(lines.slice(0, whole), where), "a gap of blank lines");
  add(loopIn([where.before + (lines[0] ?? ""), ...lines.slice(1)].slice(0, whole)), "it began to repeat itself");
  add(whole >= MOST_LINES ? MOST_LINES : undefined, `${MOST_LINES} lines`);
  const loop = loopAtEnd(code);
  if (loop !== undefined) ends.push({ text: code.slice(0, loop), why: "it began to repeat itself" });
  if (done || state === "closed") ends.push({ text: code, why: "" });
  return ends.sort((a, b) => a.text.length - b.text.length)[0];
}

function lineEnd(raw: string, done: boolean): Stop | undefined {
  const end = raw.indexOf("\n");
  const loop = loopAtEnd(end < 0 ? raw : raw.slice(0, end));
  if (loop !== undefined) return { text: raw.slice(0, loop), why: "it began to repeat itself" };
  if (end >= 0) return { text: raw.slice(0, end), why: "the end of the line" };
  return done ? { text: raw, why: "" } : undefined;
}

interface End {
  /** Lines that stay. */
  readonly line: number;
  readonly why: string;
}

/** An operator, or a word that wants another one. */
const GOES_ON = /(\\|[-+*/&|=.]|\b(and|or|not|in|return|extends|implements))$/;
const AGAIN = "the next line stands there already";

/** Line by line, the first rule that ends it. The last line may still grow: of it only the indentation is certain. */
function walk(lines: readonly string[], whole: number, where: Where): End | undefined {
  const start = startOf(lines, where);
  if (start === undefined) return undefined;
  const head = start === 0 ? where.before + (lines[0] ?? "") : (lines[start] ?? "");
  if (head.trim() === "") return undefined;
  const base = indentOf(head, where.indent.size);
  if (start > 0 && base < indentOf(where.before, where.indent.size)) {
    return { line: 0, why: "the end of the block" };
  }
  if (start < whole) {
    if (isNext(head, where)) return { line: start, why: AGAIN };
    // Inside brackets that are closed behind the cursor: a first line with text on it is all, an empty one unfolds them.
    const folded = (lines[0] ?? "").trim() !== "" && where.after.trim() !== "";
    if ((where.mode === "statement" || folded) && isComplete(lines.slice(0, start + 1), head, where)) {
      return { line: start + 1, why: "the end of the statement" };
    }
  }
  return walkOn(lines, whole, where, start, head);
}

/** The line with the first text: the cursor's own, unless nothing was added to it and no block is opened there. */
function startOf(lines: readonly string[], where: Where): number | undefined {
  if (where.before.trim() !== "" && where.mode === "block") return 0;
  const found = lines.findIndex((line) => line.trim() !== "");
  return found < 0 ? undefined : found;
}

function walkOn(lines: readonly string[], whole: number, where: Where, start: number, head: string): End | undefined {
  const base = indentOf(head, where.indent.size);
  // On an empty line what follows at the same depth belongs to it; behind text only what that text began does.
  const siblings = where.mode === "block" && where.before.trim() === "";
  let closed = false;
  for (let index = start + 1; index < lines.length; index++) {
    const line = lines[index] ?? "";
    if (line.trim() === "") {
      if (closed && index < whole) return { line: index, why: "the end of the paragraph" };
      continue;
    }
    closed = false;
    if (index < whole && isNext(line, where)) return { line: index, why: AGAIN };
    const indent = indentOf(line, where.indent.size);
    if (indent > base) continue;
    if (indent < base) return { line: index, why: "the end of the block" };
    if (index >= whole && (closesBlock(line, where.language) || /^(\w*|<)$/.test(line.trim()))) return undefined;
    if (continuesBlock(line) || isItem(line, head, where)) continue;
    if (closesBlock(line, where.language)) {
      if (isOpen(lines.slice(0, index + 1), where)) continue;
      if (!siblings) return { line: index + 1, why: "the block is closed" };
      closed = true;
    } else if (!siblings && !isOpen(lines.slice(0, index), where)) {
      return { line: index, why: "the end of the block" };
    }
  }
  return undefined;
}

/** An item of a YAML list may stand as far out as the key it belongs to. */
function isItem(line: string, head: string, where: Where): boolean {
  const item = /^\s*-(\s|$)/;
  return where.language === "yaml" && item.test(line) && !item.test(head);
}

/** Is it what stands below the cursor anyway? A short line only at the same depth, and only the very next one. */
export function isNext(line: string, where: Where): boolean {
  const text = line.trim();
  const next = where.below[0];
  if (text.length >= TELLING && where.below.slice(0, NEAR).some((one) => one.trim() === text)) return true;
  if (next === undefined || next.trim() !== text) return false;
  return indentOf(line, where.indent.size) === indentOf(next, where.indent.size);
}

/** Brackets opened on the cursor's line or since, which nothing there closes. */
function isOpen(lines: readonly string[], where: Where): boolean {
  const behind = scan(where.after, where.language).closed.length;
  return scan(where.before + lines.join("\n"), where.language).open.length > behind;
}

/** Whether a statement ends with this line: nothing open, no block begun, no operator at its end. */
function isComplete(lines: readonly string[], head: string, where: Where): boolean {
  const text = withoutComment(head, where.language).trim();
  if (opensBlock(text, where.language) || /^@[\w.]+(\(.*\))?$/.test(text)) return false;
  if (GOES_ON.test(text) && !/(\+\+|--|\*\/|\.\.\.)$/.test(text)) return false;
  return !isOpen(lines, where);
}

/** Two blank lines behind text: lines until then. */
function gapIn(lines: readonly string[], where: Where): number | undefined {
  let blank = 0;
  for (let index = 0; index < lines.length; index++) {
    const line = index === 0 ? where.before + (lines[0] ?? "") : (lines[index] ?? "");
    blank = line.trim() === "" ? blank + 1 : 0;
    const behindText = where.before.trim() !== "" || lines.slice(0, index - 1).some((one) => one.trim() !== "");
    if (blank === 2 && behindText) return index - 1;
  }
  return undefined;
}

/** One to four lines, three times in a row: lines until the first time is over. */
function loopIn(lines: readonly string[]): number | undefined {
  for (let from = 0; from < lines.length; from++) {
    for (let period = 1; period <= 4 && from + period * 3 <= lines.length; period++) {
      if (isLoop(lines, from, period)) return from + period;
    }
  }
  return undefined;
}

function isLoop(lines: readonly string[], from: number, period: number): boolean {
  for (let index = from; index < from + period * 2; index++) {
    if (lines[index] !== lines[index + period]) return false;
  }
  return lines.slice(from, from + period).some((line) => /\w{2}/.test(line));
}

/** The same few characters five times at the end: where the first time is over. */
function loopAtEnd(text: string): number | undefined {
  const tail = text.slice(-240);
  const found = /([^\n]{3,40}?)\1{4,}$/.exec(tail);
  if (found === null || !/\w{2}/.test(found[1] ?? "")) return undefined;
  const period = (found[1] ?? "").length;
  let from = text.length - tail.length + found.index;
  while (from > 0 && text[from - 1] === text[from - 1 + period]) from -= 1;
  return from + period;
}
