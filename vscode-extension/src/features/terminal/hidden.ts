/** Characters that a terminal obeys and nobody sees; and how a command is shown in a box of one line. */

// Written as numbers, so that no hidden character stands in this file.
const HIDDEN: readonly (readonly [from: number, to: number, what: string])[] = [
  [0x0a, 0x0a, "a line break: what stands before it runs first"],
  [0x0d, 0x0d, "a line break: what stands before it runs first"],
  [0x09, 0x09, "a tab, which a shell may take for a wish to complete"],
  [0x1b, 0x1b, "a terminal escape sequence"],
  [0x00, 0x1f, "a control character"],
  [0x7f, 0x7f, "a control character"],
  [0x9b, 0x9b, "a terminal escape sequence"],
  [0x80, 0x9f, "a control character"],
  [0xa0, 0xa0, "a space that is none for a shell"],
  [0xad, 0xad, "an invisible character"],
  [0x034f, 0x034f, "an invisible character"],
  [0x061c, 0x061c, "a character that turns the direction of text"],
  [0x115f, 0x1160, "an invisible character"],
  [0x17b4, 0x17b5, "an invisible character"],
  [0x180b, 0x180f, "an invisible character"],
  [0x2000, 0x200a, "a space that is none for a shell"],
  [0x200b, 0x200d, "an invisible character"],
  [0x200e, 0x200f, "a character that turns the direction of text"],
  [0x2028, 0x2029, "a line break: what stands before it runs first"],
  [0x202a, 0x202e, "a character that turns the direction of text"],
  [0x202f, 0x202f, "a space that is none for a shell"],
  [0x205f, 0x205f, "a space that is none for a shell"],
  [0x2060, 0x2065, "an invisible character"],
  [0x2066, 0x2069, "a character that turns the direction of text"],
  [0x206a, 0x206f, "an invisible character"],
  [0x2800, 0x2800, "an invisible character"],
  [0x3000, 0x3000, "a space that is none for a shell"],
  [0x3164, 0x3164, "an invisible character"],
  [0xd800, 0xdfff, "half a character"],
  [0xfe00, 0xfe0f, "an invisible character"],
  [0xfeff, 0xfeff, "an invisible character"],
  [0xffa0, 0xffa0, "an invisible character"],
  [0xfff0, 0xfffb, "an invisible character"],
  [0x1bca0, 0x1bca3, "an invisible character"],
  [0xe0000, 0xe0fff, "an invisible character"],
];

const BREAK = 0x0a;
const BREAK_SHOWN = "⏎";
const OPEN = "⟦";
const CLOSE = "⟧";
const KEPT = 20;

/** One hidden character. `part`: as it is shown. */
export interface Hidden {
  readonly what: string;
  readonly part: string;
}

/** What of a command cannot be seen, each kind once; empty: all can. */
export function hiddenIn(command: string): readonly Hidden[] {
  const found = new Map<string, Hidden>();
  const seen = new Set<string>();
  for (const character of command) {
    if (seen.has(character)) continue;
    seen.add(character);
    const what = meaning(character.codePointAt(0) ?? 0);
    if (what === undefined || found.has(what)) continue;
    found.set(what, { what, part: shownCharacter(character) });
    if (found.size >= KEPT) break;
  }
  return [...found.values()];
}

/** Whether sending it to a terminal could do more than type it: line breaks, tabs, escapes. */
export function hasControls(command: string): boolean {
  for (const character of command) {
    const code = character.codePointAt(0) ?? 0;
    if (code < 0x20 || (code >= 0x7f && code <= 0x9f)) return true;
  }
  return false;
}

/** For a box of one line: each hidden character as a mark that can be seen and deleted. `fromBox` is its inverse. */
export function toBox(command: string): string {
  let shown = "";
  for (const character of command) {
    const code = character.codePointAt(0) ?? 0;
    const mark = character === OPEN || character === CLOSE || character === BREAK_SHOWN;
    shown += mark || meaning(code) !== undefined ? shownCharacter(character) : character;
  }
  return shown;
}

/** The command that a box of one line stands for. */
export function fromBox(shown: string): string {
  return shown.replaceAll(BREAK_SHOWN, "\n").replace(/⟦U\+([0-9A-F]{2,6})⟧/g, (whole, hex: string) => {
    const code = Number.parseInt(hex, 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

function meaning(code: number): string | undefined {
  if (code >= 0x20 && code < 0x7f) return undefined;
  return HIDDEN.find(([from, to]) => code >= from && code <= to)?.[2];
}

function shownCharacter(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  if (code === BREAK) return BREAK_SHOWN;
  return `${OPEN}U+${code.toString(16).toUpperCase().padStart(4, "0")}${CLOSE}`;
}
