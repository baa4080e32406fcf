/** The editor's own chat in our terms: its messages and its history, made into ours. Pure. */

import type { Content, Message, ToolCall } from "../../api/gateway";
import type { Block, KeptTurn } from "./conversation";

/** A message of the editor's: text, pictures (data URLs), calls of tools, and what tools gave back. */
export interface HostMessage {
  readonly role: "system" | "user" | "assistant";
  readonly text: string;
  readonly images: readonly string[];
  readonly calls: readonly ToolCall[];
  readonly results: readonly { readonly id: string; readonly text: string }[];
}

/**
 * Neighbours of one role become one message: many templates want user and assistant to take turns. Empty ones go. What a
 * tool gave back is a message of its own, right behind the call, or behind the other results; the rest of such messages, their
 * pictures too, follows the last result.
 */
export function alternating(messages: readonly HostMessage[]): readonly Message[] {
  const joined: Message[] = [];
  for (const { role, text, images, calls, results } of messages) {
    const tools = results.map(({ id, text: content }): Message => ({ role: "tool", content, toolCallId: id }));
    if (tools.length > 0) joined.splice(endOfResults(joined), 0, ...tools);
    if (text === "" && images.length === 0 && calls.length === 0) continue;
    const message: Message = { role, content: contentOf(text, images), ...(calls.length > 0 && { toolCalls: calls }) };
    const last = joined.at(-1);
    if (last?.role !== role || last.toolCalls !== undefined) joined.push(message);
    else joined[joined.length - 1] = { ...message, content: both(last.content, message.content) };
  }
  return joined;
}

/** Where the next result belongs: in front of what was said since the calls. */
function endOfResults(messages: readonly Message[]): number {
  const at = messages.findLastIndex(({ role }) => role === "tool" || role === "assistant");
  const last = messages[at];
  return last?.role === "tool" || last?.toolCalls !== undefined ? at + 1 : messages.length;
}

function both(one: Content, other: Content): Content {
  const [first, second] = [partsOf(one), partsOf(other)];
  const texts = [...first, ...second]
    .map((part) => (part.type === "text" ? part.text : ""))
    .filter((text) => text !== "");
  const images = [...first, ...second].flatMap((part) => (part.type === "image_url" ? [part.image_url.url] : []));
  return contentOf(texts.join("\n\n"), images);
}

function partsOf(content: Content): Exclude<Content, string> {
  return typeof content === "string" ? [{ type: "text", text: content }] : content;
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
