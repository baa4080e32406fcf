/**
 * The messages of a conversation. A question's context stands in its own message, and nothing of an earlier turn ever
 * changes: each request begins with the bytes of the one before, which the server's cache holds. Where there is no room,
 * whole blocks go, the oldest first, and what went is told.
 */

import type { Content, Message } from "../../api/gateway";
import type { Block, KeptTurn } from "./conversation";

/** Constant: it is in front of everything. No date, no path, nothing that differs between two requests. */
export const SYSTEM = `You are AiCockpit, a programming assistant in the user's editor. Answer in Markdown, in the language of the question; be exact and short.
Put code into fenced blocks with its language. When a block belongs to a file, write the file's path behind the language, as in \`\`\`ts src/app.ts
When you change code, show each function or class that changes completely, or the whole file if it is short. Leave out what stays with a comment "... existing code ...", never without a mark.
Where the question came with files, base the answer on them, and say so when something needed is not there. Cite documentation as [1], [2].
Show shell commands in blocks of their own, without a prompt sign.`;

/** How much a picture counts: most models take about this many tokens. */
const IMAGE_TOKENS = 1_000;
/** After a cut there is room for some turns, so that not every one of them cuts again. */
const ROOM_AFTER_CUT = 0.8;
const LEAST_BLOCK = 400;
const LEFT_OUT = "(Earlier parts of this conversation were left out.)\n\n";

export interface Wishes {
  /** The person's own, from the settings. */
  readonly instructions: string;
  /** The model reads pictures. */
  readonly vision: boolean;
}

export function systemText(instructions: string): string {
  const own = instructions.trim();
  return own === "" ? SYSTEM : `${SYSTEM}\n\nThe user's own instructions:\n${own}`;
}

/** The messages for all turns; the last one's question comes last. A question without an answer joins the next one. */
export function messagesOf(turns: readonly KeptTurn[], wishes: Wishes): readonly Message[] {
  const messages: Message[] = [{ role: "system", content: systemText(wishes.instructions) }];
  const told = new Set<string>();
  const open: { text: string; images: string[] } = { text: "", images: [] };
  const kept = turns.filter((turn) => turn.dropped !== true);
  let before = kept.length < turns.length ? LEFT_OUT : "";
  for (const turn of kept) {
    const text = before + questionText(turn, told, wishes.vision);
    before = "";
    open.text = open.text === "" ? text : `${open.text}\n\n${text}`;
    if (wishes.vision) open.images.push(...turn.images);
    if (turn.answer === "" && turn !== kept.at(-1)) continue;
    messages.push({ role: "user", content: contentOf(open.text, open.images) });
    open.text = "";
    open.images = [];
    if (turn.answer !== "") messages.push({ role: "assistant", content: turn.answer });
  }
  return messages;
}

function contentOf(text: string, images: readonly string[]): Content {
  if (images.length === 0) return text;
  return [...images.map((url) => ({ type: "image_url" as const, image_url: { url } })), { type: "text", text }];
}

/** Context, then the question. `told`: what stands in the prompt already, which is not sent twice. */
function questionText(turn: KeptTurn, told: Set<string>, vision: boolean): string {
  const parts = turn.blocks.map((block) => {
    const key = `${block.title}\u0000${block.text}`;
    if (block.cut === true) return `### ${block.title}\n(left out: no room)`;
    if (told.has(key)) return `### ${block.title}\n(unchanged, see above)`;
    told.add(key);
    return blockText(block);
  });
  const pictures =
    vision || turn.images.length === 0 ? [] : [`(${turn.images.length} pictures, which this model cannot see)`];
  return [...parts, ...pictures, turn.question].join("\n\n");
}

/** A block under its title; the fence is longer than any in the text. */
export function blockText(block: Block): string {
  const note = block.note === undefined ? "" : `\n(${block.note})`;
  if (block.kind === "docs") return `### ${block.title}${note}\n${block.text}`;
  const longest = Math.max(2, ...[...block.text.matchAll(/`{3,}/g)].map((match) => match[0].length));
  const fence = "`".repeat(longest + 1);
  const end = block.text.endsWith("\n") ? "" : "\n";
  return `### ${block.title}${note}\n${fence}${block.language}\n${block.text}${end}${fence}`;
}

/** A message's text, without its pictures. */
export function textOf(content: Content): string {
  if (typeof content === "string") return content;
  return content.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** Estimated tokens of messages; `tokens` estimates a text. */
export function sizeOf(messages: readonly Message[], tokens: (text: string) => number): number {
  let total = 0;
  for (const { content } of messages) {
    total += tokens(textOf(content));
    if (typeof content !== "string") total += IMAGE_TOKENS * content.filter((part) => part.type === "image_url").length;
  }
  return total;
}

export interface Room {
  /** Tokens that the prompt may have. */
  readonly prompt: number;
  /** Tokens of the answer, at most. */
  readonly answer: number;
}

/** The model's length, shared between prompt and answer: the answer gets what was set, at most a quarter. */
export function roomOf(maxLength: number | undefined, maxTokens: number): Room {
  if (maxLength === undefined) return { prompt: Number.POSITIVE_INFINITY, answer: maxTokens };
  const answer = Math.max(16, Math.min(maxTokens, Math.floor(maxLength / 4)));
  return { prompt: Math.max(64, Math.floor((maxLength - answer) * 0.96) - 32), answer };
}

export interface Fitted {
  readonly turns: readonly KeptTurn[];
  /** What was left out now, for people; empty: nothing. */
  readonly left: readonly string[];
  /** The last question alone is longer than the room. */
  readonly tooLong: boolean;
}

/** Cuts until the prompt fits: earlier blocks from the oldest on, then earlier turns, then the last question's blocks. */
export function fitPrompt(
  turns: readonly KeptTurn[],
  wishes: Wishes,
  limit: number,
  tokens: (text: string) => number,
): Fitted {
  const size = (some: readonly KeptTurn[]): number => sizeOf(messagesOf(some, wishes), tokens);
  if (size(turns) <= limit) return { turns, left: [], tooLong: false };
  const left: string[] = [];
  let now = [...turns];
  const roomy = (): boolean => size(now) <= limit * ROOM_AFTER_CUT;
  const last = now.length - 1;
  for (let at = 0; at < last && !roomy(); at++) {
    const blocks = now[at]?.blocks ?? [];
    for (let index = 0; index < blocks.length && !roomy(); index++) {
      const block = blocks[index];
      if (block === undefined || block.cut === true || now[at]?.dropped === true) continue;
      now = withBlock(now, at, index, { ...block, cut: true });
      left.push(block.title);
    }
  }
  let dropped = 0;
  for (let at = 0; at < last && !roomy(); at++) {
    const turn = now[at];
    if (turn === undefined || turn.dropped === true) continue;
    now = now.with(at, { ...turn, dropped: true });
    dropped++;
  }
  if (dropped > 0) left.push(dropped === 1 ? "the oldest question" : `the ${dropped} oldest questions`);
  for (let tries = 0; tries < 24 && size(now) > limit; tries++) {
    const shorter = shortenLargest(now, size(now) - limit, tokens);
    if (shorter === undefined) break;
    now = [...shorter.turns];
    if (!left.includes(shorter.what)) left.push(shorter.what);
  }
  return { turns: now, left, tooLong: size(now) > limit };
}

function withBlock(turns: readonly KeptTurn[], at: number, index: number, block: Block): KeptTurn[] {
  return turns.map((turn, each) => (each === at ? { ...turn, blocks: turn.blocks.with(index, block) } : turn));
}

/** The last question's largest block, shorter by about `over` tokens; a short one goes altogether. Undefined: none is left. */
function shortenLargest(
  turns: readonly KeptTurn[],
  over: number,
  tokens: (text: string) => number,
): { readonly turns: readonly KeptTurn[]; readonly what: string } | undefined {
  const at = turns.length - 1;
  const blocks = turns[at]?.blocks ?? [];
  let largest = -1;
  for (const [index, block] of blocks.entries()) {
    if (block.cut !== true && block.text.length > (blocks[largest]?.text.length ?? 0)) largest = index;
  }
  const block = blocks[largest];
  if (block === undefined) return undefined;
  const share = 1 - (over + 24) / Math.max(1, tokens(block.text));
  const wanted = Math.floor(block.text.length * share);
  if (wanted < LEAST_BLOCK) {
    return { turns: withBlock(turns, at, largest, { ...block, cut: true }), what: block.title };
  }
  const line = block.text.lastIndexOf("\n", wanted);
  const text = block.text.slice(0, line > 0 ? line : wanted);
  const note = `only its first ${text.split("\n").length} lines: no room for the rest`;
  return { turns: withBlock(turns, at, largest, { ...block, text, note }), what: `the end of ${block.title}` };
}
