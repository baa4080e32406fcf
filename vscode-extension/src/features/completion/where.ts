/** The place of a completion, as stop rules and filters see it; and how many lines it may have. Pure. */

import { indentOf } from "./brackets";
import { type Family, familyOf, hasElements, isComment, opensBlock } from "./languages";

export type Multiline = "auto" | "always" | "never";

/** How far a completion goes: the line's end, the end of what the line begins, or the end of the block. */
export type Mode = "line" | "statement" | "block";

/** How the document is indented; as the editor says, else as its lines show. */
export interface Indent {
  readonly tabs: boolean;
  /** Columns of one step. */
  readonly size: number;
  /** No line of it is indented: the model may know better. */
  readonly guessed?: true;
}

export interface Where {
  readonly language: string;
  readonly family: Family;
  /** The windows that were sent. */
  readonly prefix: string;
  readonly suffix: string;
  /** The cursor's line, left and right of it. */
  readonly before: string;
  readonly after: string;
  /** Lines above the cursor's that are not blank, the nearest last. */
  readonly above: readonly string[];
  /** Lines below the cursor's that are not blank, the nearest first. */
  readonly below: readonly string[];
  readonly indent: Indent;
  readonly mode: Mode;
  /** Why this mode, for people. */
  readonly why: string;
  /** The model was cut off by its limit: its last line is not whole. */
  readonly cutOff?: boolean;
}

const LINES = 40;
/** Closing brackets and quotes, and what ends a statement behind them: text that the editor itself may have put there. */
const CLOSERS = /^[\s)\]}>"'`]*[;,:]?\s*$/;

/** `indent`: undefined where the editor does not tell. */
export function whereOf(
  prefix: string,
  suffix: string,
  language: string,
  multiline: Multiline,
  indent?: Indent,
): Where {
  const above = prefix.split("\n");
  const before = above.pop() ?? "";
  const below = suffix.split("\n", LINES * 2);
  const after = below.shift() ?? "";
  const place = {
    language,
    family: familyOf(language),
    prefix,
    suffix,
    before,
    after,
    above: lastLines(above),
    below: below.filter((line) => line.trim() !== "").slice(0, LINES),
    indent: indent ?? indentIn([...above, before]),
  };
  return { ...place, ...modeAt(place, multiline) };
}

function lastLines(lines: readonly string[]): readonly string[] {
  const found: string[] = [];
  for (let index = lines.length - 1; index >= 0 && found.length < LINES; index--) {
    const line = lines[index] ?? "";
    if (line.trim() !== "") found.push(line);
  }
  return found.reverse();
}

/** Only closing brackets and quotes, or nothing; where there are elements, the end of one as well. */
export function isClosers(text: string, language: string): boolean {
  return CLOSERS.test(text) || (/^\s*<\/[\w.:-]*>[);]*\s*$/.test(text) && hasElements(language));
}

/** Mode and reason: one line where text follows the cursor, else as far as what is begun there goes. */
function modeAt(
  place: Pick<Where, "language" | "family" | "before" | "after" | "above">,
  multiline: Multiline,
): { readonly mode: Mode; readonly why: string } {
  const { language, before, after } = place;
  const blank = before.trim() === "";
  if (multiline === "never") return { mode: "line", why: "several lines are switched off" };
  if (!isClosers(after, language)) return { mode: "line", why: "text follows the cursor on its line" };
  if (!blank && isComment(before, language)) return { mode: "line", why: "in a comment" };
  if (multiline === "always") return { mode: "block", why: "several lines are always allowed" };
  if (after.trim() !== "") {
    const opened = /[{([>]$/.test(before.trimEnd()) && opensBlock(before, language);
    return opened
      ? { mode: "block", why: "a block begins inside brackets" }
      : { mode: "statement", why: "only closing brackets follow" };
  }
  if (opensBlock(before, language)) return { mode: "block", why: "a block begins" };
  if (!blank) return { mode: place.family === "prose" ? "line" : "statement", why: "nothing follows on the line" };
  const last = place.above.at(-1);
  if (last !== undefined && opensBlock(last, language)) return { mode: "block", why: "the first line of a block" };
  return { mode: "block", why: "an empty line" };
}

/** As most lines that are indented show. */
export function indentIn(lines: readonly string[]): Indent {
  let tabs = 0;
  let spaces = 0;
  let size = 0;
  for (const line of lines) {
    if (line.startsWith("\t")) tabs += 1;
    else if (line.startsWith("  ")) {
      spaces += 1;
      const width = indentOf(line);
      if (size === 0 || (width < size && width >= 2)) size = width;
    }
  }
  if (tabs + spaces === 0) return { tabs: false, size: 4, guessed: true };
  return tabs > spaces ? { tabs: true, size: 4 } : { tabs: false, size: size === 0 ? 4 : Math.min(size, 8) };
}
