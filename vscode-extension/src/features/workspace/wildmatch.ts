/**
 * One pattern of a `.gitignore` as a regular expression, with git's own meaning: what `indexer/wildmatch.py` of the server
 * does, so that the same files are sent whoever sends them. Texts are bytes, one character each (`bytesOf`).
 */

/** `regex` is for the name alone if `nameOnly`, else for the path below the pattern's own folder. */
export interface Pattern {
  readonly regex: string;
  readonly nameOnly: boolean;
  readonly foldersOnly: boolean;
  readonly negated: boolean;
}

const CLASSES: Readonly<Record<string, RegExp>> = {
  alnum: /[0-9A-Za-z]/,
  alpha: /[A-Za-z]/,
  blank: /[ \t]/,
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what this class stands for
  cntrl: /[\x00-\x1f\x7f]/,
  digit: /[0-9]/,
  graph: /[!-~]/,
  lower: /[a-z]/,
  print: /[ -~]/,
  punct: /[!-/:-@[-`{-~]/,
  space: /[ \t\n\v\f\r]/,
  upper: /[A-Z]/,
  xdigit: /[0-9A-Fa-f]/,
};
const SLASH = 0x2f;
const ANY = "[\\s\\S]";

/** The pattern can match nothing: an open bracket, an unknown class, a lone backslash at its end. */
class Never extends Error {}

/** A text as its UTF-8 bytes, one character each: what git compares. */
export function bytesOf(text: string): string {
  for (let place = 0; place < text.length; place++) {
    if (text.charCodeAt(place) > 0x7f) return Buffer.from(text, "utf8").toString("latin1");
  }
  return text;
}

/** A line without its line end; undefined for an empty line, a comment, and a pattern that can match nothing. */
export function parsePattern(line: string, ignoreCase = false): Pattern | undefined {
  let text = trimmed(line.split("\0", 1)[0] ?? "");
  if (!text || text.startsWith("#")) return undefined;
  const negated = text.startsWith("!");
  if (negated) text = text.slice(1);
  const foldersOnly = text.endsWith("/");
  if (foldersOnly) text = text.slice(0, -1);
  const nameOnly = !text.includes("/");
  if (!text) return undefined;
  if (text.startsWith("/")) text = text.slice(1);
  // git compares what stands before the first special character as it is. So `**` right behind it counts as the
  // pattern's beginning: `foo**/bar` matches `foox/y/bar`.
  const special = text.search(/[*?[\\]/);
  const plain = special < 0 ? text.length : special;
  try {
    const regex = literal(text.slice(0, plain), ignoreCase) + translate(text.slice(plain), !nameOnly, ignoreCase);
    return { regex, nameOnly, foldersOnly, negated };
  } catch (error) {
    if (error instanceof Never) return undefined;
    throw error;
  }
}

/** Without trailing spaces, but for escaped ones; other white space stays. */
function trimmed(line: string): string {
  let end = -1;
  for (let place = 0; place < line.length; place++) {
    if (line[place] === " ") {
      if (end < 0) end = place;
      continue;
    }
    if (line[place] === "\\") {
      place += 1;
      if (place === line.length) return line;
    }
    end = -1;
  }
  return end < 0 ? line : line.slice(0, end);
}

function literal(text: string, ignoreCase: boolean): string {
  return [...text].map((char) => one(char, ignoreCase)).join("");
}

/** Only ASCII letters have a case, as in git. */
function one(char: string, ignoreCase: boolean): string {
  if (ignoreCase && /[A-Za-z]/.test(char)) return `[${char.toLowerCase()}${char.toUpperCase()}]`;
  return /[0-9A-Za-z_]/.test(char) ? char : hex(char.charCodeAt(0));
}

function hex(byte: number): string {
  return `\\x${byte.toString(16).padStart(2, "0")}`;
}

/** `paths`: stars and question marks stop at slashes, `**` between slashes does not. */
function translate(text: string, paths: boolean, ignoreCase: boolean): string {
  const out: string[] = [];
  let place = 0;
  while (place < text.length) {
    const char = text.charAt(place);
    if (char === "*") {
      let end = place;
      while (text[end] === "*") end += 1;
      const [part, next] = stars(text, place, end, paths);
      out.push(part);
      place = next;
    } else if (char === "?") {
      out.push(paths ? "[^/]" : ANY);
      place += 1;
    } else if (char === "[") {
      const [members, next] = bracket(text, place + 1, ignoreCase);
      if (paths) members.delete(SLASH);
      out.push(oneOf(members));
      place = next;
    } else if (char === "\\") {
      if (place + 1 === text.length) throw new Never();
      out.push(one(text.charAt(place + 1), ignoreCase));
      place += 2;
    } else {
      out.push(one(char, ignoreCase));
      place += 1;
    }
  }
  return out.join("");
}

/** The stars in text[place:end]: their regular expression, and where the pattern goes on. */
function stars(text: string, place: number, end: number, paths: boolean): readonly [string, number] {
  if (!paths) return [`${ANY}*`, end];
  const after = text.slice(end, end + 2);
  const begins = place === 0 || text[place - 1] === "/";
  const bounded = begins && (after === "" || after.startsWith("/") || after === "\\/");
  if (end - place < 2 || !bounded) return ["[^/]*", end];
  if (after.startsWith("/")) return [`(?:${ANY}*/)?`, end + 1];
  return [`${ANY}*`, end];
}

function oneOf(members: ReadonlySet<number>): string {
  if (members.size === 0) throw new Never();
  return `[${[...members]
    .sort((left, right) => left - right)
    .map(hex)
    .join("")}]`;
}

/** The bytes that a bracket stands for, and where the pattern goes on behind it. */
function bracket(text: string, start: number, ignoreCase: boolean): readonly [Set<number>, number] {
  let place = start;
  const negated = text[place] === "!" || text[place] === "^";
  if (negated) place += 1;
  const members = new Set<number>();
  let previous = 0;
  let first = true;
  while (first || text[place] !== "]") {
    first = false;
    let byte = at(text, place);
    const following = text.charAt(place + 1);
    if (byte === 0x5c) {
      place += 1;
      byte = at(text, place);
      members.add(byte);
    } else if (byte === 0x2d && previous && following && following !== "]") {
      place += 1;
      let high = at(text, place);
      if (high === 0x5c) {
        place += 1;
        high = at(text, place);
      }
      addRange(members, previous, high, ignoreCase);
      byte = 0;
    } else if (byte === 0x5b && following === ":") {
      const found = namedClass(text, place + 2, ignoreCase);
      if (found === undefined) members.add(byte);
      else {
        for (const member of found[0]) members.add(member);
        place = found[1];
        byte = 0;
      }
    } else members.add(byte);
    previous = byte;
    place += 1;
  }
  return [settled(members, negated, ignoreCase), place + 1];
}

function addRange(members: Set<number>, low: number, high: number, ignoreCase: boolean): void {
  for (let byte = low; byte <= high; byte++) members.add(byte);
  if (!ignoreCase) return;
  for (let byte = 0x61; byte <= 0x7a; byte++) if (low <= byte - 0x20 && byte - 0x20 <= high) members.add(byte);
}

/** git lowers the letter of the path, not those in the bracket. */
function settled(members: Set<number>, negated: boolean, ignoreCase: boolean): Set<number> {
  if (ignoreCase) {
    for (let byte = 0x41; byte <= 0x5a; byte++) members.delete(byte);
    for (let byte = 0x61; byte <= 0x7a; byte++) if (members.has(byte)) members.add(byte - 0x20);
  }
  members.delete(0);
  if (!negated) return members;
  const others = new Set<number>();
  for (let byte = 1; byte < 256; byte++) if (!members.has(byte)) others.add(byte);
  return others;
}

/** `[:name:]` at `start`, behind its colon; undefined when no `:]` ends it, and it is a plain bracket. */
function namedClass(text: string, start: number, ignoreCase: boolean): readonly [Set<number>, number] | undefined {
  const end = text.indexOf("]", start);
  if (end < 0) throw new Never();
  if (end === start || text[end - 1] !== ":") return undefined;
  const name = text.slice(start, end - 1);
  const kind = CLASSES[name];
  if (kind === undefined) throw new Never();
  const members = new Set<number>();
  for (let byte = 1; byte < 128; byte++) if (kind.test(String.fromCharCode(byte))) members.add(byte);
  if (name === "upper" && ignoreCase) for (let byte = 0x61; byte <= 0x7a; byte++) members.add(byte);
  return [members, end];
}

function at(text: string, place: number): number {
  if (place >= text.length) throw new Never();
  return text.charCodeAt(place);
}
