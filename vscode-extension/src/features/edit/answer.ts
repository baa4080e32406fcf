/** What of a chat model's answer is the code: without thoughts, fences, markers and talk. Works while it streams. */

import { hasContent, isBlank } from "./lines";

export interface Body {
  readonly lines: readonly string[];
  /** A fenced block was there; an empty one says: delete it all. */
  readonly fenced: boolean;
  /** What was said besides. */
  readonly talk: string;
}

const THOUGHTS = [
  ["<think>", "</think>"],
  ["<thinking>", "</thinking>"],
  ["<reasoning>", "</reasoning>"],
  ["<thought>", "</thought>"],
  ["[THINK]", "[/THINK]"],
] as const;
const FINAL = "<|channel|>final<|message|>";
const END_TOKENS = /(?:<\|(?:return|end|im_end|eot_id|endoftext)\|>|<\/s>)\s*$/;
const FENCE = /^(\s*)(`{3,}|~{3,})\s*([^`]*)$/;
const OPENING_WORDS =
  /^(?:sure|certainly|of course|okay|ok|here(?:'s|’s| is| are)|below (?:is|are)|the following|i(?:'ve|’ve| have|'ll|’ll| will)|updated|note|explanation|changes?(?: made)?|this|these|the|now|we|in this|let me|hope|to)\b/i;
const LEAD_IN = /^(?:sure|certainly|of course|okay|ok|here(?:'s|’s| is| are)|below (?:is|are))\b/i;
/** In these a sentence is content. */
const PROSE = new Set([
  "markdown",
  "plaintext",
  "latex",
  "tex",
  "restructuredtext",
  "asciidoc",
  "html",
  "yaml",
  "git-commit",
]);
const NOTHING: ReadonlySet<string> = new Set();

/** The text without a reasoning model's thoughts; empty while it still thinks. */
export function withoutThoughts(text: string): string {
  const start = text.trimStart();
  if (start.includes(FINAL)) return ended(start.slice(start.lastIndexOf(FINAL) + FINAL.length));
  if (start.startsWith("<|channel|>")) return "";
  for (const [open, close] of THOUGHTS) {
    // Some templates open the thoughts in the prompt: then only their end is seen.
    const opened = start.startsWith(open);
    const end = start.indexOf(`${close}\n`) >= 0 ? start.indexOf(`${close}\n`) : start.indexOf(close);
    if (end >= 0 && (opened || !start.slice(0, end).includes(open))) {
      const alone = start.slice(0, end).endsWith("\n") || opened;
      if (alone) return ended(start.slice(end + close.length).replace(/^\s*\n/, ""));
    }
    if (opened || (open.startsWith(start) && start !== "")) return "";
  }
  return ended(text);
}

function ended(text: string): string {
  let now = text;
  while (END_TOKENS.test(now)) now = now.replace(END_TOKENS, "");
  return now;
}

/** The code among complete lines of an answer to rewrite `original`. `known`: lines of the file, which are never talk. */
export function bodyOf(
  lines: readonly string[],
  language: string,
  original: readonly string[],
  known: ReadonlySet<string>,
): Body {
  const prose = PROSE.has(language) || original.some((line) => isTalk(line, NOTHING));
  const open = openingFence(lines, prose, known);
  if (open !== undefined) return fenced(lines, open);
  return bare(lines, prose, known);
}

function openingFence(lines: readonly string[], prose: boolean, known: ReadonlySet<string>): number | undefined {
  const at = lines.findIndex((line) => FENCE.test(line));
  const fence = FENCE.exec(lines[at] ?? "");
  if (fence === null) return undefined;
  const lead = lines.slice(0, at).filter((line) => !isBlank(line));
  if (lead.length === 0) {
    // In Markdown a fence may be the content itself: then what follows its end is content too.
    return prose && known.has(lines[at] ?? "") && !/^(?:markdown|md)$/i.test(fence[3] ?? "") ? undefined : at;
  }
  const talk = prose ? lead.length <= 3 && LEAD_IN.test(lead[0] ?? "") : lead.every((line) => isTalk(line, known));
  return talk ? at : undefined;
}

function fenced(lines: readonly string[], open: number): Body {
  const [, indent = "", marks = "", info = ""] = FENCE.exec(lines[open] ?? "") ?? [];
  const nests = /^(?:markdown|md|mdx)\b/i.test(info.trim());
  const code: string[] = [];
  let depth = 0;
  let at = open + 1;
  for (; at < lines.length; at++) {
    const line = lines[at] ?? "";
    const fence = FENCE.exec(line);
    if (fence !== null && (fence[2] ?? "").startsWith(marks) && (fence[1] ?? "").length <= indent.length) {
      const bareFence = (fence[3] ?? "").trim() === "";
      if (bareFence && depth === 0) break;
      if (nests) depth += bareFence ? -1 : 1;
    }
    code.push(indent !== "" && line.startsWith(indent) ? line.slice(indent.length) : line);
  }
  const talk = [...lines.slice(0, open), ...lines.slice(at + 1)].filter((line) => !isBlank(line)).join("\n");
  return { lines: code, fenced: true, talk };
}

/** Code without a fence: talk before and after it is left out; a fence that was only closed ends it. */
function bare(lines: readonly string[], prose: boolean, known: ReadonlySet<string>): Body {
  if (prose) return { lines, fenced: false, talk: "" };
  const closing = lines.findIndex((line) => FENCE.test(line) && !known.has(line));
  const code = closing >= 0 ? lines.slice(0, closing) : lines;
  let first = 0;
  while (first < code.length && (isBlank(code[first] ?? "") || isTalk(code[first] ?? "", known))) first++;
  let last = code.length;
  for (let at = code.length - 1; at > first; at--) {
    const line = code[at] ?? "";
    if (isBlank(line)) last = at;
    else if (!isTalk(line, known)) break;
  }
  const talk = [...code.slice(0, first), ...code.slice(last)].filter((line) => !isBlank(line)).join("\n");
  return { lines: code.slice(first, last), fenced: false, talk };
}

/** Whether a line of a code answer is a sentence to the reader. */
function isTalk(line: string, known: ReadonlySet<string>): boolean {
  if (known.has(line) || /^\s/.test(line)) return false;
  const plain = line
    .replace(/`[^`]*`/g, "x")
    .replace(/\*\*/g, "")
    .trim();
  const words = plain.split(/\s+/).length;
  if (!hasContent(plain) || /[;{}=<>[\]\\]|\w\(|^[#@/*]/.test(plain)) return false;
  if (words === 1) return /^(?:sure|certainly)[!.,:]?$/i.test(plain);
  if (/^(?:[-*]|\d+\.) /.test(plain)) return words >= 4;
  if (OPENING_WORDS.test(plain)) return /[.:!]$/.test(plain) || words >= 6;
  return words >= 4 && /^[A-Z][a-z']* .*[.:!]$/.test(plain);
}
