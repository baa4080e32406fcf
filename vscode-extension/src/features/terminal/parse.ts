/** Reads a command out of what a model answered, however it was wrapped: small models answer badly. */

/** `command` empty: the answer holds none; `explanation` may say why. */
export interface Proposal {
  readonly command: string;
  /** One line; empty: none was given. */
  readonly explanation: string;
}

const LONGEST_COMMAND = 20_000;
const LONGEST_EXPLANATION = 300;
const NAMES_OF_COMMAND = ["command", "cmd", "shell", "bash", "shell_command", "code"];
const NAMES_OF_EXPLANATION = ["explanation", "explain", "description", "comment", "reason"];
const CHATTER =
  /^(?:sure|certainly|of course|okay|ok\b|here(?:'s| is| are)|the command|you can|to \w+.*:$|this command|note|answer|output|use\b.*:$)/i;

/** Of a whole answer, or of what has come of it so far. Never throws. */
export function parseProposal(answer: string): Proposal {
  const text = withoutThoughts(answer).trim();
  return fromJson(text) ?? fromFence(text) ?? fromLines(text);
}

function proposal(command: string, explanation: string): Proposal {
  return {
    command: tidyCommand(command).slice(0, LONGEST_COMMAND),
    explanation: explanation.replace(/\s+/g, " ").trim().slice(0, LONGEST_EXPLANATION),
  };
}

/** A reasoning model's thoughts, also unfinished ones. */
function withoutThoughts(answer: string): string {
  const end = answer.lastIndexOf("</think>");
  if (end >= 0) return answer.slice(end + "</think>".length);
  return answer.trimStart().startsWith("<think>") ? "" : answer;
}

function fromJson(text: string): Proposal | undefined {
  for (let at = text.indexOf("{"), tries = 0; at >= 0 && tries < 5; at = text.indexOf("{", at + 1), tries++) {
    const end = endOfObject(text, at);
    const whole = end < 0 ? undefined : parsed(text.slice(at, end));
    if (whole !== undefined) {
      const command = commandOf(whole);
      if (command !== undefined) return proposal(command, stringOf(whole, NAMES_OF_EXPLANATION) ?? "");
    }
  }
  // Broken JSON: a comma too many, real line breaks in a string, or the end is still to come.
  const command = looseString(text, NAMES_OF_COMMAND);
  if (command === undefined) return undefined;
  return proposal(command, looseString(text, NAMES_OF_EXPLANATION) ?? "");
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

function commandOf(value: Record<string, unknown>): string | undefined {
  for (const name of NAMES_OF_COMMAND) {
    const one = value[name];
    if (typeof one === "string") return one;
    if (Array.isArray(one) && one.every((line) => typeof line === "string")) return one.join("\n");
  }
  const many = value.commands;
  if (Array.isArray(many) && many.every((line) => typeof line === "string")) return many.join("\n");
  return undefined;
}

function stringOf(value: Record<string, unknown>, names: readonly string[]): string | undefined {
  for (const name of names) {
    const one = value[name];
    if (typeof one === "string") return one;
  }
  return undefined;
}

/** Behind the object that begins here; -1: it does not end. */
function endOfObject(text: string, from: number): number {
  let depth = 0;
  let quoted = false;
  for (let at = from; at < text.length; at++) {
    const character = text[at];
    if (quoted) {
      if (character === "\\") at++;
      else if (character === '"') quoted = false;
    } else if (character === '"') quoted = true;
    else if (character === "{") depth++;
    else if (character === "}" && --depth === 0) return at + 1;
  }
  return -1;
}

/** `"name": "value` with whatever escapes hold, as far as it has come. */
function looseString(text: string, names: readonly string[]): string | undefined {
  const head = new RegExp(`["'](?:${names.join("|")})["']\\s{0,9}:\\s{0,9}(["'])`, "i").exec(text);
  if (head === null) return undefined;
  const quote = head[1];
  let value = "";
  for (let at = head.index + head[0].length; at < text.length && text[at] !== quote; at++) {
    const character = text[at] ?? "";
    if (character !== "\\") value += character;
    else {
      const unicode = /^u([0-9a-fA-F]{4})/.exec(text.slice(at + 1, at + 6));
      if (unicode !== null) {
        value += String.fromCharCode(Number.parseInt(unicode[1] ?? "0", 16));
        at += 5;
      } else value += unescaped(text[++at]);
    }
  }
  return value;
}

function unescaped(character: string | undefined): string {
  if (character === undefined) return "";
  const named: Readonly<Record<string, string>> = {
    n: "\n",
    t: "\t",
    r: "\r",
    '"': '"',
    "'": "'",
    "/": "/",
    "\\": "\\",
  };
  return named[character] ?? `\\${character}`;
}

function fromFence(text: string): Proposal | undefined {
  const open = /(?:^|\n)[ \t]*(`{3,}|~{3,})[ \t]*[\w+-]*[ \t]*\n?/.exec(text);
  if (open === null) return undefined;
  const from = open.index + open[0].length;
  const close = text.indexOf(open[1] ?? "```", from);
  const inner = (close < 0 ? text.slice(from) : text.slice(from, close)).trim();
  if (inner.startsWith("{") && looseString(inner, NAMES_OF_COMMAND) !== undefined) return undefined;
  const after = close < 0 ? "" : text.slice(close + 3).trim();
  const before = text.slice(0, open.index).trim();
  const said = firstSentence(after) || (CHATTER.test(before) ? "" : firstSentence(before));
  return proposal(withoutPrompts(inner), said);
}

function fromLines(text: string): Proposal {
  // The start of a JSON answer is no command.
  if (/^[{[`]/.test(text) && !/^\{\s+\S+.*;\s*\}/.test(text) && !/^\[\[?\s/.test(text)) {
    const inline = /^`([^`\n]+)`\s*(.*)/s.exec(text);
    return inline === null ? proposal("", "") : proposal(inline[1] ?? "", firstSentence(inline[2] ?? ""));
  }
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const labelled = lines.find((line) => /^\W{0,3}(?:command|cmd)\W{0,3}:\s*\S/i.test(line));
  const explained = lines.find((line) => /^\W{0,3}explanation\W{0,3}:\s*\S/i.test(line));
  const said = explained === undefined ? "" : afterColon(explained);
  if (labelled !== undefined) return proposal(withoutTicks(afterColon(labelled)), said);
  const quoted = lines.map((line) => /`([^`]{2,})`/.exec(line)?.[1]).find((one) => one !== undefined);
  const first = lines.find((line) => !CHATTER.test(line.trim()));
  if (first === undefined || (CHATTER.test(lines[0]?.trim() ?? "") && quoted !== undefined))
    return proposal(quoted ?? "", "");
  const whole = lines.filter((line) => line !== explained && !CHATTER.test(line.trim()));
  return proposal(withoutTicks(withoutPrompts(continued(whole))), said);
}

/** The first line with what continues it; a second sentence in words is not part of it. */
function continued(lines: readonly string[]): string {
  const kept: string[] = [];
  for (const line of lines) {
    const open = kept.at(-1);
    const follows = open === undefined || /(?:\\|\||&&|`|\^|\bdo|\bthen|\{)\s*$/.test(open) || /^\s+\S/.test(line);
    if (!follows && /^[A-Z][a-z]+ .*[.!:]$/.test(line)) break;
    kept.push(line);
  }
  return kept.join("\n");
}

function afterColon(line: string): string {
  return line
    .slice(line.indexOf(":") + 1)
    .replace(/^\*+/, "")
    .trim();
}

function withoutTicks(text: string): string {
  return text.trim().replace(/^(`+)([^`]+)\1$/, "$2");
}

/** `$ ls` and `PS> ls` are copied from a screen; only where every command line has it. */
function withoutPrompts(text: string): string {
  const lines = text.split("\n");
  const prompted = lines.filter((line) => /^\s*(?:\$|❯|PS [^>\n]{0,80}>|PS>|>)\s+\S/.test(line));
  if (prompted.length === 0 || !lines[0] || !/^\s*(?:\$|❯|PS|>)/.test(lines[0])) return text;
  return prompted.map((line) => line.replace(/^\s*(?:\$|❯|PS [^>\n]{0,80}>|PS>|>)\s+/, "")).join("\n");
}

function firstSentence(text: string): string {
  const line = text.split("\n").find((one) => one.trim() !== "" && !/^[`~#]/.test(one.trim())) ?? "";
  return line
    .replace(/^\W{0,3}explanation\W{0,3}:\s*/i, "")
    .replace(/[`*]/g, "")
    .trim();
}

/** Without the empty lines around it; a continued line is one line, as it is for the shell. */
function tidyCommand(command: string): string {
  const lines = command
    .replace(/\r\n?/g, "\n")
    .replace(/^(?:[ \t]*\n)+/, "")
    .trimEnd();
  // Inside quotes and here-documents it would be another text.
  const simple = !/['"#]|<</.test(lines);
  return (simple ? lines.replace(/[ \t]+\\\n[ \t]*|\\\n[ \t]+/g, " ").replaceAll("\\\n", "") : lines).trim();
}
