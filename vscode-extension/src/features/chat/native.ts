/** The editor's own chat in our terms: its messages and its history, made into ours. Pure. */

import type { Content, Message } from "../../api/gateway";
import type { Block, KeptTurn } from "./conversation";

/** A message of the editor's: text and pictures (data URLs). */
export interface HostMessage {
  readonly role: "system" | "user" | "assistant";
  readonly text: string;
  readonly images: readonly string[];
}

/** Neighbours of one role become one message: many templates want user and assistant to take turns. Empty ones go. */
export function alternating(messages: readonly HostMessage[]): readonly Message[] {
  const joined: HostMessage[] = [];
  for (const message of messages) {
    if (message.text === "" && message.images.length === 0) continue;
    const last = joined.at(-1);
    if (last === undefined || last.role !== message.role) joined.push(message);
    else {
      const text = [last.text, message.text].filter((part) => part !== "").join("\n\n");
      joined[joined.length - 1] = { role: last.role, text, images: [...last.images, ...message.images] };
    }
  }
  return joined.map(({ role, text, images }) => ({ role, content: contentOf(text, images) }));
}

function contentOf(text: string, images: readonly string[]): Content {
  if (images.length === 0) return text;
  const pictures = images.map((url) => ({ type: "image_url" as const, image_url: { url } }));
  return text === "" ? pictures : [...pictures, { type: "text" as const, text }];
}

/** What we keep with an answer in the editor's history: the exact words of then, which the cache holds. */
export interface Sent {
  readonly question: string;
  readonly answer: string;
}

/** Undefined: not ours. */
export function sentOf(metadata: unknown): Sent | undefined {
  if (typeof metadata !== "object" || metadata === null) return undefined;
  const { question, answer } = metadata as Readonly<Record<string, unknown>>;
  return typeof question === "string" && typeof answer === "string" ? { question, answer } : undefined;
}

export function nativeTurn(question: string, answer: string, blocks: readonly Block[] = []): KeptTurn {
  return { id: "", question, answer, blocks, mentions: [], images: [], model: "", reasoning: "", sources: [], at: 0 };
}

/** Tokens of prompt and answer, as the editor wants to know them. What the server does not tell counts as 16,384 together. */
export function limitsOf(
  maxLength: number | undefined,
  maxTokens: number,
): { readonly input: number; readonly output: number } {
  const all = maxLength ?? 16_384;
  const output = Math.max(1, Math.min(maxTokens, Math.floor(all / 4)));
  return { input: Math.max(1, all - output), output };
}
