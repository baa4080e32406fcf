/**
 * What is sent of a document around the cursor, cut so that typing changes as little of it as possible. Both ends move
 * in steps and rest in between: a window that slid with every new line would throw the server's cache away at each.
 */

/** A document as lines without their ends; the editor's own documents answer this without copying the text. */
export interface Source {
  readonly lineCount: number;
  line(index: number): string;
}

/** Characters are UTF-16 units; lines count from 0. */
export interface Limits {
  /** Lines above the cursor that are sought; there are at most a step more of them. */
  readonly prefixLines: number;
  readonly prefixChars: number;
  /** Lines from the cursor's own on; at most twice as many. */
  readonly suffixLines: number;
  readonly suffixChars: number;
  readonly step: number;
}

/** The same figures as the server's, so that it need not cut again. */
export const LIMITS: Limits = { prefixLines: 256, prefixChars: 24_000, suffixLines: 64, suffixChars: 8_000, step: 64 };

/** Where the last window of a document began and ended: handed back to the next call. */
export interface Anchor {
  readonly line: number;
  /** More than 0 only where lines are too long to send from their beginning. */
  readonly column: number;
  /** Lines of the document below the window: counted from the end, typing above does not change it. */
  readonly below: number;
}

export interface Window {
  /** Text before the cursor, lines ended by `\n` whatever the document ends them by. */
  readonly prefix: string;
  /** Text behind the cursor. */
  readonly suffix: string;
  readonly anchor: Anchor;
}

/** The window around a cursor; `previous` is the anchor of the last window of this document, kept while it serves. */
export function windowAt(
  source: Source,
  line: number,
  character: number,
  previous?: Anchor,
  limits: Limits = LIMITS,
): Window {
  const start = startOf(source, line, character, previous, limits);
  const below = belowOf(source, line, character, previous, limits);
  return {
    prefix: joined(source, start, line, character),
    suffix: suffixOf(source, line, character, source.lineCount - below, limits.suffixChars),
    anchor: { ...start, below },
  };
}

interface Start {
  readonly line: number;
  readonly column: number;
}

/** Kept while it fits and is neither too little nor too much; a fresh one leaves room to type on in both directions. */
function startOf(source: Source, line: number, character: number, previous: Anchor | undefined, limits: Limits): Start {
  if (previous !== undefined && isBefore(previous, line, character)) {
    const lines = line - previous.line;
    const chars = charsFrom(source, previous, line, character);
    const atTop = previous.line === 0 && previous.column === 0;
    const enough = atTop || lines >= limits.prefixLines - limits.step || chars >= limits.prefixChars / 2;
    if (enough && lines < limits.prefixLines + limits.step && chars <= limits.prefixChars) {
      return { line: previous.line, column: whole(source.line(previous.line), previous.column) };
    }
  }
  return freshStart(source, line, character, limits);
}

/** Three quarters of the limit at most, so that it takes a quarter of typing until the window moves again. */
function freshStart(source: Source, line: number, character: number, limits: Limits): Start {
  const most = (limits.prefixChars * 3) / 4;
  const wanted = line - limits.prefixLines + limits.step / 2;
  let start = { line: Math.max(0, Math.floor(wanted / limits.step) * limits.step), column: 0 };
  for (;;) {
    const chars = charsFrom(source, start, line, character);
    if (chars <= most) return start;
    const next = { line: start.line + limits.step, column: 0 };
    if (next.line > line) return insideStep(source, start, chars - most, limits);
    start = next;
  }
}

/** Within one step of lines that is too long in itself: some quarters of the limit behind that step's beginning. */
function insideStep(source: Source, start: Start, over: number, limits: Limits): Start {
  const quarter = Math.max(1, Math.floor(limits.prefixChars / 4));
  let skipped = Math.ceil(over / quarter) * quarter;
  let line = start.line;
  while (skipped > source.line(line).length) {
    skipped -= source.line(line).length + 1;
    line += 1;
  }
  return { line, column: whole(source.line(line), Math.max(0, skipped)) };
}

function belowOf(
  source: Source,
  line: number,
  character: number,
  previous: Anchor | undefined,
  limits: Limits,
): number {
  if (previous !== undefined) {
    const lines = source.lineCount - previous.below - line;
    const chars = lines > 0 ? charsUntil(source, line, character, line + lines) : Number.POSITIVE_INFINITY;
    const enough = previous.below === 0 || lines >= limits.suffixLines || chars >= limits.suffixChars / 2;
    if (enough && lines > 0 && lines <= limits.suffixLines * 2 && chars <= limits.suffixChars) return previous.below;
  }
  return freshBelow(source, line, character, limits);
}

/** The end of a step of lines counted from the document's end; fewer lines where they are long. */
function freshBelow(source: Source, line: number, character: number, limits: Limits): number {
  const step = limits.suffixLines / 2;
  const most = (limits.suffixChars * 3) / 4;
  const rest = source.lineCount - line;
  const fits = (lines: number) => charsUntil(source, line, character, line + lines) <= most;
  const below = Math.max(0, Math.ceil((rest - limits.suffixLines - step) / step) * step);
  if (fits(rest - below)) return below;
  for (let fine = step / 4; fine >= 1; fine = Math.floor(fine / 2)) {
    for (let less = Math.ceil((below + 1) / fine) * fine; less < rest; less += fine) {
      if (fits(rest - less)) return less;
    }
  }
  return Math.max(0, rest - 1);
}

function suffixOf(source: Source, line: number, character: number, end: number, most: number): string {
  const parts = [source.line(line).slice(character)];
  for (let index = line + 1; index < end; index++) parts.push(source.line(index));
  const text = end < source.lineCount ? `${parts.join("\n")}\n` : parts.join("\n");
  return text.length <= most ? text : text.slice(0, whole(text, most));
}

function joined(source: Source, start: Start, line: number, character: number): string {
  if (start.line === line) return source.line(line).slice(start.column, character);
  const parts = [source.line(start.line).slice(start.column)];
  for (let index = start.line + 1; index < line; index++) parts.push(source.line(index));
  parts.push(source.line(line).slice(0, character));
  return parts.join("\n");
}

function isBefore(anchor: Anchor, line: number, character: number): boolean {
  return anchor.line < line || (anchor.line === line && anchor.column <= character);
}

function charsFrom(source: Source, start: Start, line: number, character: number): number {
  let chars = character - start.column;
  for (let index = start.line; index < line; index++) chars += source.line(index).length + 1;
  return chars;
}

function charsUntil(source: Source, line: number, character: number, end: number): number {
  let chars = -character;
  for (let index = line; index < Math.min(end, source.lineCount); index++) chars += source.line(index).length + 1;
  return chars;
}

/** The place, or one before it where it would split a character in two. */
function whole(text: string, at: number): number {
  const code = text.charCodeAt(at);
  const splits = at > 0 && code >= 0xdc00 && code <= 0xdfff;
  return splits ? at - 1 : at;
}
