/** Where the cursor will be after a change of the text: the editor tells of the change first. Pure. */

export interface Caret {
  readonly line: number;
  readonly character: number;
}

/** Longer insertions are pasted, generated or formatted: nobody has typed on there. */
const TYPED = 400;
/** What the editor closes by itself: the cursor stays in between. */
const PAIRS = new Set(["()", "[]", "{}", "<>", '""', "''", "``"]);

/**
 * The cursor behind what was typed, deleted or taken over; undefined where the change was not made at the cursor, or
 * the cursor's place cannot be told from it. `before` is the cursor before the change, as the editor still says.
 */
export function caretAfter(start: Caret, end: Caret, text: string, before: Caret): Caret | undefined {
  if (text.length > TYPED || before.line < start.line - 1 || before.line > end.line + 1) return undefined;
  if (PAIRS.has(text)) return { line: start.line, character: start.character + 1 };
  const lines = text.split(/\r\n|\r|\n/);
  const last = lines.at(-1) ?? "";
  if (lines.length === 1) return { line: start.line, character: start.character + last.length };
  // A line broken between brackets: the cursor is on the line in the middle, the closing one has gone below.
  if (lines.length === 3 && (lines[1] ?? "").trim() === "" && last.trim() === "") {
    return { line: start.line + 1, character: (lines[1] ?? "").length };
  }
  return { line: start.line + lines.length - 1, character: last.length };
}
