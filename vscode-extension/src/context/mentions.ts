/**
 * What `@file src/a.ts:10-20` and its like in a question mean, and the ids of what they stand for.
 *
 * Grammar: `@kind`, at the beginning of a word and not in code, then for `file`, `folder`, `symbol` and `docs` an argument
 * behind `:` or a blank. An argument with blanks stands in quotes. A path may end in `:12`, `:12-40` or `#L12-L40`.
 */

export type ContextKind = "file" | "folder" | "selection" | "symbol" | "problems" | "terminal" | "docs";

export const CONTEXT_KINDS: readonly ContextKind[] = [
  "file",
  "folder",
  "selection",
  "symbol",
  "problems",
  "terminal",
  "docs",
];

/** Lines from 1, both included. */
export interface Lines {
  readonly from: number;
  readonly to: number;
}

/** A mention as it was typed. */
export interface Typed {
  readonly kind: ContextKind;
  /** Empty: the active file, the last command, all documentation, … */
  readonly argument: string;
  readonly lines?: Lines;
  /** The argument stood behind a blank without quotes: it may be the next word of the sentence. */
  readonly loose: boolean;
  /** Where in the text. */
  readonly start: number;
  readonly end: number;
}

const MENTION = /(?<![^\s([{"'*,;])@(file|folder|selection|symbol|problems|terminal|docs)(?![\w-])/g;
const TAKES: ReadonlySet<string> = new Set(["file", "folder", "symbol", "docs"]);
const MOST = 32;

/** The mentions in a question, in their order; at most 32. */
export function parseMentions(text: string): readonly Typed[] {
  const prose = withoutCode(text);
  const found: Typed[] = [];
  for (const match of prose.matchAll(MENTION)) {
    if (found.length === MOST) break;
    const kind = match[1] as ContextKind;
    const end = match.index + match[0].length;
    const colon = prose[end] === ":" && /\S/.test(prose[end + 1] ?? "");
    const all = colon && prose.slice(end).match(/^:all\b/) !== null;
    if (kind === "problems" && all)
      found.push({ kind, argument: "all", loose: false, start: match.index, end: end + 4 });
    else if (!TAKES.has(kind)) found.push({ kind, argument: "", loose: false, start: match.index, end });
    else found.push(withArgument(kind, prose, match.index, end, colon));
  }
  return found;
}

function withArgument(kind: ContextKind, text: string, start: number, end: number, colon: boolean): Typed {
  const rest = text.slice(end);
  const quoted = /^(?::[ \t]*|[ \t]+)(?:"([^"\n]+)"|'([^'\n]+)')(?::(\d+)(?:-(\d+))?)?/.exec(rest);
  if (quoted !== null) {
    const inner = pathAndLines(quoted[1] ?? quoted[2] ?? "");
    const lines = quoted[3] === undefined ? inner.lines : linesOf(quoted[3], quoted[4]);
    return { kind, argument: inner.path, ...(lines && { lines }), loose: false, start, end: end + quoted[0].length };
  }
  const plain = (colon ? /^:([^\s"']+)/ : /^[ \t]+([^\s"'@][^\s"']*)/).exec(rest);
  if (plain === null) return { kind, argument: "", loose: false, start, end };
  const word = (plain[1] ?? "").replace(/[.,;:!?)\]}]+$/, "");
  if (word === "") return { kind, argument: "", loose: false, start, end };
  const { path, lines } = kind === "file" ? pathAndLines(word) : { path: word, lines: undefined };
  const stop = end + plain[0].length - ((plain[1] ?? "").length - word.length);
  return { kind, argument: path, ...(lines && { lines }), loose: !colon, start, end: stop };
}

/** `a.ts:10-20`, `a.ts#L10-L20`, `a.ts:10:3` and `a.ts`. */
export function pathAndLines(text: string): { readonly path: string; readonly lines: Lines | undefined } {
  const found = /^(.+?)(?::(\d+)(?:-(\d+)|:\d+)?|#L(\d+)(?:-L?(\d+))?)$/.exec(text.trim());
  if (found === null) return { path: text.trim(), lines: undefined };
  return { path: found[1] ?? "", lines: linesOf(found[2] ?? found[4] ?? "", found[3] ?? found[5]) };
}

function linesOf(from: string, to: string | undefined): Lines | undefined {
  const first = Number(from);
  const last = to === undefined ? first : Number(to);
  if (!(first >= 1)) return undefined;
  return { from: Math.min(first, Math.max(1, last)), to: Math.max(first, last) };
}

/** The same length, code blanked out: what stands in code is no mention. */
export function withoutCode(text: string): string {
  const blank = (code: string): string => code.replace(/[^\n]/g, " ");
  return text.replace(/^(```+|~~~+)[\s\S]*?(?:^\1[`~]*[ \t]*$|$(?![\s\S]))/gm, blank).replace(/`[^`\n]+`/g, blank);
}

/** What an id stands for. `at`: a URI as text, a number of a command, or the id of documentation; `*`: all. */
export interface Reference {
  readonly kind: ContextKind;
  readonly at: string;
  readonly lines?: Lines;
  /** A symbol's. */
  readonly name?: string;
}

/** An id tells all that is needed to read it again later: it is kept with the conversation. */
export function idOf(reference: Reference): string {
  const { kind, at, lines, name } = reference;
  const parts = [at];
  if (lines !== undefined) parts.push(`${lines.from}-${lines.to}`);
  if (name !== undefined) parts.push(name);
  return `${kind}:${parts.join(" ")}`;
}

/** Undefined: no id of ours. */
export function referenceOf(id: string): Reference | undefined {
  const found = /^([a-z]+):(\S*)(?: (\d+)-(\d+))?(?: (.+))?$/s.exec(id);
  const kind = CONTEXT_KINDS.find((each) => each === found?.[1]);
  if (found === null || kind === undefined || (found[2] ?? "") === "") return undefined;
  const lines = found[3] === undefined ? undefined : linesOf(found[3], found[4]);
  return { kind, at: found[2] ?? "", ...(lines && { lines }), ...(found[5] !== undefined && { name: found[5] }) };
}
