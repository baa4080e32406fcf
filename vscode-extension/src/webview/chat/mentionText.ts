/** Finding the `@mention` that is being typed. */

import { MENTION_KINDS, type MentionKind } from "../../features/chat/protocol";

const LONGEST = 200;

export interface TypedMention {
  /** Where the `@` stands. */
  readonly from: number;
  readonly kind: MentionKind | undefined;
  readonly query: string;
}

/** The mention that ends at the caret; undefined: none. `@` inside a word (an e-mail address) is none. */
export function mentionAt(text: string, caret: number): TypedMention | undefined {
  const before = text.slice(Math.max(0, caret - LONGEST), caret);
  const match = /(?:^|[\s([{"'`])@([^\s@]*)$/.exec(before);
  const typed = match?.[1];
  if (typed === undefined) return undefined;
  const from = caret - typed.length - 1;
  const [, name, query] = /^([a-z]+):(.*)$/.exec(typed) ?? [];
  const kind = MENTION_KINDS.find((each) => each === name);
  if (kind !== undefined) return { from, kind, query: query ?? "" };
  return { from, kind: undefined, query: typed };
}

/** Replace a part of a text box as if it had been typed, so that its undo keeps working. */
export function typeInto(box: HTMLTextAreaElement, from: number, to: number, text: string): void {
  box.focus();
  box.setSelectionRange(from, to);
  // Deprecated, and the only way that keeps the undo history of a text box.
  const typed =
    text !== "" && typeof document.execCommand === "function" && document.execCommand("insertText", false, text);
  if (!typed) box.setRangeText(text, from, to, "end");
}
