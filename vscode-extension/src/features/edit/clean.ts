/** Turns a chat model's answer, whole or so far, into the lines that take the place of the original ones. */

import { bodyOf, withoutThoughts } from "./answer";
import { reindent } from "./indent";
import { hasContent, isBlank, sameLines, splitLines } from "./lines";

/** What the answer is to replace, and what stands around it. */
export interface CleanOptions {
  readonly original: readonly string[];
  readonly before: readonly string[];
  readonly after: readonly string[];
  readonly language: string;
  /** The marks around the part in the prompt. */
  readonly markers: readonly [open: string, close: string];
  /** The whole file is rewritten. */
  readonly whole: boolean;
  /** The answer's own indentation counts: the instruction is about it. */
  readonly ownIndent: boolean;
}

export interface Cleaned {
  /** Without line ends. While it streams: complete lines only, and those held back that may yet turn out not to be code. */
  readonly lines: readonly string[];
  /** `words`: talk and no code. `nothing`: empty. Only told at the end. */
  readonly verdict: "code" | "words" | "nothing";
  /** What was said besides the code. */
  readonly talk: string;
}

const MOST_ECHO = 40;
const SPEAKING_LENGTH = 10;

/** The answer's code in the original's indentation. Pure; the same text always gives the same lines. */
export function clean(raw: string, done: boolean, options: CleanOptions): Cleaned {
  const text = withoutThoughts(raw);
  const complete = splitLines(done ? text : text.slice(0, text.lastIndexOf("\n") + 1));
  const answered = done ? complete : complete.slice(0, -1);
  const known = new Set([...options.before, ...options.original, ...options.after].filter((line) => !isBlank(line)));
  const outer = betweenMarkers(answered, options.markers);
  const body = bodyOf(outer, options.language, options.original, known);
  const inner = betweenMarkers(body.lines, options.markers);
  const own = withoutEcho(trimmed(inner), options, done);
  const fitted = options.ownIndent ? own : reindent(own, options.original, around(options), done);
  const verdict =
    own.some((line) => !isBlank(line)) || (done && body.fenced) ? "code" : body.talk ? "words" : "nothing";
  const empty = fitted === undefined || fitted.length === 0;
  if (empty && !(done && verdict === "code")) return { lines: [], verdict, talk: body.talk };
  const tidied = tidy(fitted ?? [], options.original);
  return { lines: edged(tidied, inner, options, done), verdict, talk: body.talk };
}

function around(options: CleanOptions): readonly string[] {
  return [...options.before, ...options.after];
}

/** What stands between the marks, where the answer repeats them; the marks may share a line with code. */
function betweenMarkers(lines: readonly string[], markers: readonly [string, string]): readonly string[] {
  const [open, close] = markers;
  const opened = lines.findIndex((line) => line.includes(open));
  const begun = opened < 0 ? lines : cut(lines.slice(opened), 0, open, "after");
  const closed = begun.findIndex((line) => line.includes(close));
  return closed < 0 ? begun : cut(begun.slice(0, closed + 1), closed, close, "before");
}

function cut(lines: readonly string[], at: number, marker: string, keep: "before" | "after"): readonly string[] {
  const line = lines[at] ?? "";
  const place = line.indexOf(marker);
  const rest = keep === "after" ? line.slice(place + marker.length) : line.slice(0, place);
  return [...lines.slice(0, at), ...(isBlank(rest) ? [] : [rest]), ...lines.slice(at + 1)];
}

/** Without blank lines at both ends. */
function trimmed(lines: readonly string[]): readonly string[] {
  const first = lines.findIndex((line) => !isBlank(line));
  const last = lines.findLastIndex((line) => !isBlank(line));
  return lines.slice(Math.max(first, 0), last + 1);
}

/** White space alone on a line goes, unless the original has it so. */
function tidy(lines: readonly string[], original: readonly string[]): readonly string[] {
  return lines.map((line) => (isBlank(line) && !original.includes(line) ? "" : line));
}

/** Without the lines around the part, where the answer repeats them and the original did not. */
function withoutEcho(lines: readonly string[], options: CleanOptions, done: boolean): readonly string[] {
  const above = trimmed(options.before);
  const original = trimmed(options.original);
  let now = lines;
  for (let count = Math.min(now.length, above.length, MOST_ECHO); count > 0; count--) {
    const echo = above.slice(-count);
    if (begins(now, echo) && !begins(original, echo) && speaks(echo)) {
      now = trimmed(now.slice(count));
      break;
    }
  }
  return done ? withoutEchoBelow(now, original, trimmed(options.after)) : now;
}

function withoutEchoBelow(
  lines: readonly string[],
  original: readonly string[],
  below: readonly string[],
): readonly string[] {
  for (let count = Math.min(lines.length - 1, below.length, MOST_ECHO); count > 0; count--) {
    const echo = below.slice(0, count);
    if (!begins(lines.slice(-count), echo) || begins(original.slice(-count), echo)) continue;
    const over = depth(lines) - depth(original);
    if (speaks(echo) || (over !== 0 && over === depth(echo))) return trimmed(lines.slice(0, -count));
  }
  return lines;
}

function begins(lines: readonly string[], with_: readonly string[]): boolean {
  return lines.length >= with_.length && with_.every((line, at) => line.trim() === (lines[at] ?? "").trim());
}

/** Whether a repetition is no accident: two lines, or a long one. */
function speaks(lines: readonly string[]): boolean {
  const said = lines.filter(hasContent);
  return said.length >= 2 || said.some((line) => line.trim().length >= SPEAKING_LENGTH);
}

/** Brackets opened and not closed; strings are not looked at. */
function depth(lines: readonly string[]): number {
  let open = 0;
  for (const character of lines.join("\n")) {
    if ("([{".includes(character)) open++;
    else if (")]}".includes(character)) open--;
  }
  return open;
}

/** With the original's blank lines at both ends: models drop them. An answer that only adds some is believed. */
function edged(
  lines: readonly string[],
  raw: readonly string[],
  options: CleanOptions,
  done: boolean,
): readonly string[] {
  const { original } = options;
  const first = original.findIndex((line) => !isBlank(line));
  if (first < 0) return done && options.whole && lines.length > 0 ? [...lines, ""] : lines;
  const last = original.findLastIndex((line) => !isBlank(line));
  const [head, tail] = [blankHead(raw), blankHead([...raw].reverse())];
  const blank = original.length - (last - first + 1);
  if (done && !options.whole && head + tail > blank && sameLines(lines, original.slice(first, last + 1)))
    return [...Array<string>(head).fill(""), ...lines, ...Array<string>(tail).fill("")];
  const below = done ? original.slice(last + 1) : [];
  return [...original.slice(0, first), ...lines, ...below];
}

function blankHead(lines: readonly string[]): number {
  const first = lines.findIndex((line) => !isBlank(line));
  return first < 0 ? lines.length : first;
}
