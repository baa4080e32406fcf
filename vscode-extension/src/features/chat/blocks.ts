/** What was read in the editor, made into blocks of a prompt: bounded, and saying what was left out. Pure. */

import { Fault } from "../../api/fault";
import type { DocHit } from "../../api/gateway";
import type { Lines } from "../../context/mentions";
import type { Ran } from "../../context/terminal";
import type { Block } from "./conversation";
import type { MentionKind } from "./protocol";

/** Characters of one block: about 50,000 tokens. What a model takes is seen later, and cut then. */
const MOST = 180_000;
const PROBLEMS = 100;

export interface FileRead {
  readonly id: string;
  readonly kind: MentionKind;
  /** As people know it: relative to the workspace. */
  readonly path: string;
  /** The editor's language id; empty: by the path's ending. */
  readonly language: string;
  readonly text: string;
  readonly lines?: Lines | undefined;
  /** The symbol's name. */
  readonly name?: string | undefined;
}

/** A file, or lines of it. Throws a Fault where there is nothing to send. */
export function fileBlock(read: FileRead): Block {
  const { id, kind, path, lines, name } = read;
  if (isBinary(read.text)) throw new Fault("bad_request", `${path} is no text.`, "Send a text file.");
  const all = read.text.replaceAll("\r\n", "\n");
  const text = lines === undefined ? all : cutLines(all, lines);
  if (text.trim() === "") {
    const what = lines === undefined ? `${path} is empty.` : `${path} has nothing in these lines.`;
    throw new Fault("bad_request", what, "Nothing was sent for it.");
  }
  const where = lines === undefined ? path : `${path}:${linesText(lines)}`;
  const title = name === undefined ? where : `${where} (${name})`;
  return { id, kind, title, language: read.language || endingOf(path), ...bounded(text) };
}

export function linesText({ from, to }: Lines): string {
  return from === to ? `${from}` : `${from}-${to}`;
}

function cutLines(text: string, lines: Lines): string {
  return text
    .split("\n")
    .slice(lines.from - 1, lines.to)
    .join("\n");
}

/** The first part, with a note, of what is too long. */
export function bounded(text: string, most = MOST): { readonly text: string; readonly note?: string } {
  if (text.length <= most) return { text };
  const end = text.lastIndexOf("\n", most);
  const kept = text.slice(0, end > 0 ? end : most);
  const all = text.split("\n").length;
  return { text: kept, note: `only the first ${kept.split("\n").length} of ${all} lines` };
}

function isBinary(text: string): boolean {
  return text.slice(0, 8_000).includes("\0");
}

export function endingOf(path: string): string {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(dot + 1).toLowerCase() : "";
}

export interface Problem {
  readonly path: string;
  /** From 1. */
  readonly line: number;
  readonly column: number;
  readonly severity: "error" | "warning" | "information" | "hint";
  readonly message: string;
  /** Who says so, with its code. */
  readonly source: string;
  /** The line it is about, where it is at hand. */
  readonly code?: string | undefined;
}

const GRAVITY = ["error", "warning", "information", "hint"];

/** Errors first; at most 100. */
export function problemsBlock(id: string, where: string, problems: readonly Problem[]): Block {
  if (problems.length === 0) {
    throw new Fault("bad_request", `There are no problems in ${where}.`, "Nothing was sent for it.");
  }
  const sorted = [...problems].sort(
    (one, other) =>
      GRAVITY.indexOf(one.severity) - GRAVITY.indexOf(other.severity) ||
      (one.path < other.path ? -1 : one.path > other.path ? 1 : one.line - other.line || one.column - other.column),
  );
  const text = sorted.slice(0, PROBLEMS).map(problemText).join("\n");
  const note = sorted.length > PROBLEMS ? `only the first ${PROBLEMS} of ${sorted.length}` : undefined;
  return { id, kind: "problems", title: `Problems in ${where}`, language: "", text, ...(note && { note }) };
}

function problemText({ path, line, column, severity, message, source, code }: Problem): string {
  const says = source === "" ? "" : ` [${source}]`;
  const about = code === undefined || code.trim() === "" ? "" : `\n    ${code.trim().slice(0, 200)}`;
  return `${path}:${line}:${column} ${severity}: ${message.replace(/\s*\n\s*/g, " ")}${says}${about}`;
}

export function terminalBlock(id: string, ran: Ran): Block {
  const end = ran.exitCode === undefined ? "" : `, exit code ${ran.exitCode}`;
  const text = [ran.command === "" ? "" : `$ ${ran.command}`, ran.output].filter((part) => part !== "").join("\n");
  if (text === "")
    throw new Fault("bad_request", "The terminal's last command printed nothing.", "Nothing was sent for it.");
  // Of a command that ends at once the editor often tells no output: better said than taken for silence.
  const silent = ran.output === "" && { note: "no output, as far as the editor tells; paste it if there was some" };
  return { id, kind: "terminal", title: `Terminal${end}`, language: "", ...bounded(text), ...silent };
}

/** Passages with numbers to cite them by. */
export function docsBlock(id: string, name: string, hits: readonly DocHit[]): Block {
  if (hits.length === 0) {
    throw new Fault("bad_request", `${name} has nothing about this question.`, "Nothing was sent for it.");
  }
  const numbers = new Map<string, number>();
  const parts: string[] = [];
  for (const hit of hits) {
    const number = numbers.get(hit.url) ?? numbers.size + 1;
    numbers.set(hit.url, number);
    parts.push(`[${number}] ${hit.title} (${hit.url})\n${quoted(hit.text)}`);
  }
  const sources = [...numbers].map(([url, number]) => {
    const title = hits.find((hit) => hit.url === url)?.title ?? url;
    return { title: `[${number}] ${title || url}`, href: url };
  });
  return { id, kind: "docs", title: `Documentation: ${name}`, language: "", ...bounded(parts.join("\n\n")), sources };
}

/** What a page says is a quotation, not an instruction. */
function quoted(text: string): string {
  return text
    .trim()
    .split("\n")
    .map((line) => `> ${line}`)
    .join("\n");
}

export function folderBlock(id: string, path: string, text: string, heads: number): Block {
  const what = heads === 0 ? "its files by name" : `its files by name, and the beginnings of ${heads} of them`;
  return { id, kind: "folder", title: `Folder ${path} (${what})`, language: "", text };
}
