/** A conversation as text, and back: what a file says is checked, never trusted. */

import type { Block, Kept, KeptTurn } from "./conversation";
import {
  COMMANDS,
  type Ending,
  type FaultView,
  isPicture,
  MENTION_KINDS,
  type Mention,
  type MentionKind,
  type Source,
  type Usage,
} from "./protocol";

const VERSION = 1;

export function encode(kept: Kept): string {
  return `${JSON.stringify({ version: VERSION, ...kept })}\n`;
}

export type Decoded =
  | { readonly kept: Kept }
  /** `newer`: a later version of the extension wrote it; it is left alone. */
  | { readonly wrong: "damaged" | "newer" };

export function decode(text: string): Decoded {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { wrong: "damaged" };
  }
  const fields = record(value);
  if (typeof fields.version === "number" && fields.version > VERSION) return { wrong: "newer" };
  const { id, title, named, created, at, turns } = fields;
  if (typeof id !== "string" || !/^[\w-]+$/.test(id) || typeof title !== "string" || !Array.isArray(turns)) {
    return { wrong: "damaged" };
  }
  const kept: KeptTurn[] = [];
  for (const each of turns) {
    const turn = turnFrom(each);
    if (turn === undefined) return { wrong: "damaged" };
    kept.push(turn);
  }
  const changed = number(at) ?? 0;
  return { kept: { id, title, named: named === true, created: number(created) ?? changed, at: changed, turns: kept } };
}

function turnFrom(value: unknown): KeptTurn | undefined {
  const fields = record(value);
  const { id, question, answer } = fields;
  if (typeof id !== "string" || typeof question !== "string" || typeof answer !== "string") return undefined;
  const ending = fields.ending === undefined ? undefined : endingFrom(fields.ending);
  return {
    id,
    question,
    answer,
    at: number(fields.at) ?? 0,
    mentions: list(fields.mentions, mentionFrom),
    images: list(fields.images, (image) => (isPicture(image) ? image : undefined)),
    model: string(fields.model) ?? "",
    reasoning: string(fields.reasoning) ?? "",
    sources: list(fields.sources, sourceFrom),
    blocks: list(fields.blocks, blockFrom),
    ...(fields.dropped === true && { dropped: true }),
    ...(ending && { ending }),
  };
}

function mentionFrom(value: unknown): Mention | undefined {
  const fields = record(value);
  const { id, label, detail } = fields;
  const kind = kindFrom(fields.kind);
  if (typeof id !== "string" || typeof label !== "string" || kind === undefined) return undefined;
  const tokens = number(fields.tokens);
  const problem = string(fields.problem);
  return {
    id,
    kind,
    label,
    detail: string(detail) ?? "",
    ...(tokens !== undefined && { tokens }),
    ...(problem !== undefined && { problem }),
  };
}

function blockFrom(value: unknown): Block | undefined {
  const fields = record(value);
  const { id, title, text } = fields;
  const kind = kindFrom(fields.kind);
  if (typeof id !== "string" || typeof title !== "string" || typeof text !== "string" || kind === undefined) {
    return undefined;
  }
  const note = string(fields.note);
  const sources = list(fields.sources, sourceFrom);
  return {
    id,
    kind,
    title,
    text,
    language: string(fields.language) ?? "",
    ...(note !== undefined && { note }),
    ...(sources.length > 0 && { sources }),
    ...(fields.cut === true && { cut: true }),
  };
}

function endingFrom(value: unknown): Ending {
  const fields = record(value);
  const usage = usageFrom(fields.usage);
  const fault = faultFrom(fields.fault);
  const firstTokenMs = number(fields.firstTokenMs);
  const totalMs = number(fields.totalMs);
  const context = string(fields.context);
  return {
    ...(usage && { usage }),
    ...(firstTokenMs !== undefined && { firstTokenMs }),
    ...(totalMs !== undefined && { totalMs }),
    ...(context !== undefined && { context }),
    ...(fields.stopped === true && { stopped: true }),
    ...(fields.truncated === true && { truncated: true }),
    ...(fault && { fault }),
  };
}

function usageFrom(value: unknown): Usage | undefined {
  const fields = record(value);
  const prompt = number(fields.prompt);
  const completion = number(fields.completion);
  if (prompt === undefined || completion === undefined) return undefined;
  return { prompt, completion, cached: number(fields.cached) };
}

function faultFrom(value: unknown): FaultView | undefined {
  const fields = record(value);
  if (typeof fields.message !== "string") return undefined;
  const command = COMMANDS.find((each) => each === fields.command);
  return { message: fields.message, fix: string(fields.fix) ?? "", ...(command && { command }) };
}

function kindFrom(value: unknown): MentionKind | undefined {
  return MENTION_KINDS.find((kind) => kind === value);
}

function sourceFrom(value: unknown): Source | undefined {
  const { title, href } = record(value);
  return typeof title === "string" && typeof href === "string" ? { title, href } : undefined;
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

function string(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function list<T>(value: unknown, one: (item: unknown) => T | undefined): readonly T[] {
  if (!Array.isArray(value)) return [];
  return value.map(one).filter((item) => item !== undefined);
}
