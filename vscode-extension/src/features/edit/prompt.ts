/** The chat messages of an edit. What stays the same between requests comes first, so that the server finds it in its cache. */

import type { Message } from "../../api/gateway";

/** The part to rewrite and where it stands. Captured when the edit begins, so that a follow-up repeats it byte by byte. */
export interface Part {
  /** For the model: relative to its folder where it is in one. */
  readonly path: string;
  readonly language: string;
  readonly before: readonly string[];
  readonly selected: readonly string[];
  readonly after: readonly string[];
  /** Nothing was selected: the whole file. */
  readonly whole: boolean;
}

/** One finished round: what was asked and what came, as lines of code. */
export interface Turn {
  readonly instruction: string;
  readonly answer: readonly string[];
  /** It was stopped, or broke off. */
  readonly unfinished: boolean;
}

export interface PromptOptions {
  readonly part: Part;
  readonly instruction: string;
  readonly turns: readonly Turn[];
  /** A follow-up: the text as it stands now, with what was taken and refused. */
  readonly current?: readonly string[];
  /** The user's own, from the settings. */
  readonly instructions: string;
  /** Of the model, in tokens, prompt and answer together. */
  readonly maxLength: number | undefined;
  /** From the settings: most tokens of one answer. */
  readonly maxAnswer: number;
  /** The model is known to think aloud first: its thoughts need room too. */
  readonly thinks: boolean;
}

export type Prompt =
  | {
      readonly fits: true;
      readonly messages: readonly Message[];
      readonly maxTokens: number;
      readonly markers: readonly [string, string];
    }
  | { readonly fits: false; readonly why: string; readonly fix: string };

const RULES = `You edit text inside a code editor. You get a file in which one part is marked, and an instruction.
Answer with one fenced code block that holds the new version of the marked part, and nothing else:
- code only: no explanation before or after the block, no line numbers, not the marks themselves;
- the complete part from its first line to its last, with the lines that stay as they are;
- the same indentation, style and names as the file; change only what the instruction asks for;
- nothing from outside the marks: the rest of the file is there to read.
If all of the marked part is to be deleted, answer with an empty code block.`;

/** Lines before the part start at a multiple of this, so that the head of the prompt lasts from edit to edit. */
const STEP = 64;
const LINES_BEFORE = 192;
const LINES_AFTER = 96;
const CHARS_BEFORE = 12_000;
const CHARS_AFTER = 6_000;
/** Where the server does not tell the model's length. */
const ASSUMED_LENGTH = 32_768;
const SPARE_TOKENS = 512;
/** Templates, and an estimate that is a little wrong. */
const MARGIN = 128;
const KEPT_TURNS = 4;

/** The messages and the room for the answer; or why it cannot be asked, and what to do. */
export function buildPrompt(options: PromptOptions): Prompt {
  const { part } = options;
  const current = options.current ?? part.selected;
  const length = options.maxLength ?? ASSUMED_LENGTH;
  const answer = tokens(current.join("\n"));
  const what = part.whole ? "This file" : "The selection";
  const less = part.whole ? "Select the part to change." : "Select less.";
  if (answer > options.maxAnswer) {
    return {
      fits: false,
      why: `${what} has about ${answer} tokens; one answer may have ${options.maxAnswer}.`,
      fix: `${less} Or raise the setting aicockpit.chat.maxTokens.`,
    };
  }
  const fixed = tokens(RULES + options.instructions + options.instruction) + answerTokens(options.turns) + MARGIN;
  const again = options.turns.length > 0 ? answer : 0;
  const free = length - fixed - tokens(part.selected.join("\n")) - again - answer;
  if (free < 0) {
    return {
      fits: false,
      why: `${what} has about ${answer} tokens; with the answer that is more than the model's ${length}.`,
      fix: less,
    };
  }
  const markers = marks([...part.before, ...part.selected, ...part.after, ...current]);
  const spare = Math.min(free, answer + SPARE_TOKENS);
  const messages = conversation(options, markers, Math.max(0, free - spare));
  const wanted = options.thinks ? options.maxAnswer : answer * 2 + SPARE_TOKENS;
  const room = length - messages.reduce((sum, message) => sum + tokens(String(message.content)), MARGIN);
  return { fits: true, messages, markers, maxTokens: Math.max(1, Math.min(wanted, options.maxAnswer, room)) };
}

/** About how many tokens: 3 characters each, one each beyond ASCII. Rather too many than too few. */
export function tokens(text: string): number {
  let wide = 0;
  for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) > 127) wide++;
  return Math.ceil((text.length - wide) / 3 + wide);
}

/** Whether the instruction is about indentation itself, so that the answer's own counts. */
export function isAboutIndent(instruction: string): boolean {
  return /\b(?:in|de|un|out|re)-?dent|\bnest|\btabs?\b.*\bspaces?\b|\bspaces?\b.*\btabs?\b/i.test(instruction);
}

function answerTokens(turns: readonly Turn[]): number {
  return turns.slice(-KEPT_TURNS).reduce((sum, turn) => sum + tokens(turn.instruction + turn.answer.join("\n")), 0);
}

function conversation(options: PromptOptions, markers: readonly [string, string], room: number): readonly Message[] {
  const own = options.instructions.trim();
  const turns = options.turns.slice(-KEPT_TURNS);
  const [first] = turns;
  const messages: Message[] = [
    { role: "system", content: own === "" ? RULES : `${RULES}\n\nThe user's own instructions:\n${own}` },
    {
      role: "user",
      content: `${file(options.part, markers, room)}\n${ask(first?.instruction ?? options.instruction)}`,
    },
  ];
  turns.forEach((turn, at) => {
    const next = turns[at + 1]?.instruction;
    messages.push({ role: "assistant", content: `${FENCE}\n${turn.answer.join("\n")}\n${FENCE}` });
    messages.push({ role: "user", content: next === undefined ? followUp(options, markers, turn) : ask(next) });
  });
  return messages;
}

const FENCE = "```";

function ask(instruction: string): string {
  return `Instruction: ${instruction.trim()}`;
}

/** The text as it stands is told only when it is no longer what the model answered. */
function followUp(options: PromptOptions, markers: readonly [string, string], last: Turn): string {
  const now = options.current ?? last.answer;
  const same = now.join("\n") === last.answer.join("\n");
  const text = same ? "" : `The marked part is now:\n${markers[0]}\n${now.join("\n")}\n${markers[1]}\n`;
  return `${text}${ask(options.instruction)}\nAnswer with the complete new version again.`;
}

/** The file as far as it fits, the part between marks on lines of their own. */
function file(part: Part, markers: readonly [string, string], room: number): string {
  const share = Math.floor((room * 3 * 2) / 3);
  const before = tail(part.before, Math.min(CHARS_BEFORE, share));
  const after = head(part.after, Math.min(CHARS_AFTER, Math.floor(share / 2)));
  const language = part.language === "" ? "" : ` (${part.language})`;
  const text = [...before, markers[0], ...part.selected, markers[1], ...after].join("\n");
  return `File: ${part.path}${language}\n\n${text}\n\nThe marked part is between ${markers[0]} and ${markers[1]}.`;
}

function tail(lines: readonly string[], chars: number): readonly string[] {
  let first = Math.max(0, Math.ceil((lines.length - LINES_BEFORE) / STEP) * STEP);
  let size = lines.slice(first).reduce((sum, line) => sum + line.length + 1, 0);
  while (size > chars && first < lines.length) {
    const next = Math.min(lines.length, first + STEP);
    size -= lines.slice(first, next).reduce((sum, line) => sum + line.length + 1, 0);
    first = next;
  }
  if (first === lines.length && lines.length > 0) return head([...lines].reverse(), chars).toReversed();
  return lines.slice(first);
}

function head(lines: readonly string[], chars: number): readonly string[] {
  let size = 0;
  let count = 0;
  for (const line of lines.slice(0, LINES_AFTER)) {
    size += line.length + 1;
    if (size > chars) break;
    count++;
  }
  return lines.slice(0, count);
}

/** Marks that no line has. */
function marks(lines: readonly string[]): readonly [string, string] {
  const text = lines.join("\n");
  for (let count = 1; ; count++) {
    const name = count === 1 ? "edit_this" : `edit_this_${count}`;
    if (!text.includes(`${name}>`)) return [`<${name}>`, `</${name}>`];
  }
}
