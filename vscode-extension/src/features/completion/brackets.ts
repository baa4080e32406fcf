/** Brackets in code, strings and comments left out as far as a line tells: no parser, no state of a whole file. */

import { commentMark, familyOf } from "./languages";

export interface Bracket {
  readonly bracket: string;
  /** In the text that was scanned. */
  readonly at: number;
}

export interface Scan {
  /** Opened and not closed again; the innermost is last. */
  readonly open: readonly Bracket[];
  /** Closed and not opened here; in order. */
  readonly closed: readonly Bracket[];
}

const MOST = 8;
const CLOSER: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };
const OPENER: Readonly<Record<string, string>> = { ")": "(", "]": "[", "}": "{" };

export function closerOf(opener: string): string {
  return CLOSER[opener] ?? "";
}

/** Whether brackets say anything in this language: in prose and in markup a lone one is no mistake. */
export function hasBrackets(language: string): boolean {
  const family = familyOf(language);
  return family !== "prose" && family !== "markup";
}

/** The brackets of a text that are not matched within it. A closer of the wrong kind counts as not opened here. */
export function scan(text: string, language: string): Scan {
  const open: Bracket[] = [];
  const closed: Bracket[] = [];
  const comment = commentMark(language);
  let at = 0;
  while (at < text.length) {
    const char = text[at] ?? "";
    if (char === '"' || char === "'" || char === "`") {
      at = afterString(text, at, language);
      continue;
    }
    if (comment !== undefined && char === comment[0] && beginsComment(text, at, comment)) {
      const end = text.indexOf("\n", at);
      at = end < 0 ? text.length : end;
      continue;
    }
    if (char in CLOSER) open.push({ bracket: char, at });
    else if (char in OPENER) {
      if (open.at(-1)?.bracket === OPENER[char]) open.pop();
      else closed.push({ bracket: char, at });
    }
    at += 1;
  }
  return { open, closed };
}

/** `#` and `--` begin a comment only where a word does not go on: `a#b`, `i--` are none. */
function beginsComment(text: string, at: number, mark: string): boolean {
  if (!text.startsWith(mark, at)) return false;
  return mark === "//" ? text[at - 1] !== ":" : at === 0 || /[\s;]/.test(text[at - 1] ?? "");
}

/** Where a string ends that begins here; a quote with no partner on its line is no string (`don't`, `&'a str`). */
function afterString(text: string, from: number, language: string): number {
  const quote = text[from] ?? "";
  if (language === "python" && text.startsWith(quote.repeat(3), from)) {
    const end = text.indexOf(quote.repeat(3), from + 3);
    return end < 0 ? from + 3 : end + 3;
  }
  for (let at = from + 1; at < text.length; at++) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === quote) {
      const lifetime = quote === "'" && language === "rust" && at - from > 3;
      return lifetime ? from + 1 : at + 1;
    } else if (text[at] === "\n" && quote !== "`") return from + 1;
  }
  return from + 1;
}

/** Characters of indentation, a tab counted to the next multiple of `tab`. */
export function indentOf(line: string, tab = 4): number {
  let width = 0;
  for (const char of line) {
    if (char === " ") width += 1;
    else if (char === "\t") width += tab - (width % tab);
    else break;
  }
  return width;
}

/**
 * The closers that the text at the cursor may still bring without an opener of its own, innermost first: those of
 * openers before the cursor that nothing behind it closes.
 */
export function missingClosers(prefix: string, suffix: string, language: string): readonly string[] {
  const open = [...scan(prefix, language).open].reverse();
  const first = scan(suffix, language).closed[0];
  const missing: string[] = [];
  for (const { bracket, at } of open) {
    if (first !== undefined && belongs(prefix, at, bracket, suffix, first)) break;
    missing.push(closerOf(bracket));
    if (missing.length === MOST) break;
  }
  return missing;
}

/** A closer that begins its line further out than the opener's line closes another one. */
function belongs(prefix: string, at: number, bracket: string, suffix: string, closer: Bracket): boolean {
  if (closer.bracket !== closerOf(bracket)) return false;
  const lineStart = suffix.lastIndexOf("\n", closer.at - 1) + 1;
  if (lineStart === 0) return true;
  const lead = suffix.slice(lineStart, closer.at);
  if (lead.trim() !== "") return true;
  return indentOf(lead) >= indentOf(prefix.slice(prefix.lastIndexOf("\n", at) + 1, at));
}
