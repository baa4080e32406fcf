/** A conversation as it is kept: the page's view of it, and what was sent with each question. Pure; nothing is changed in place. */

import type { Conversation, ConversationHead, Ending, MentionKind, Source, Turn } from "./protocol";
import { titleOf } from "./title";

/** What was read for a mention, as it goes into the prompt. */
export interface Block {
  /** The mention's id. */
  readonly id: string;
  readonly kind: MentionKind;
  /** Stands above the text in the prompt: the path and lines, the command. */
  readonly title: string;
  /** For the fence; may be empty. */
  readonly language: string;
  readonly text: string;
  /** What was left out of it, in words. */
  readonly note?: string | undefined;
  readonly sources?: readonly Source[] | undefined;
  /** Left out of the prompt for want of room; stays so, that later prompts begin with the same tokens. */
  readonly cut?: boolean | undefined;
}

export interface KeptTurn extends Turn {
  readonly at: number;
  readonly blocks: readonly Block[];
  /** Question and answer are left out of the prompt for want of room. */
  readonly dropped?: boolean | undefined;
}

export interface Kept {
  readonly id: string;
  readonly title: string;
  /** The person gave the title. */
  readonly named: boolean;
  readonly created: number;
  /** `Date.now()` of the last change. */
  readonly at: number;
  readonly turns: readonly KeptTurn[];
}

export const UNNAMED = "New chat";

export function empty(id: string, now: number): Kept {
  return { id, title: UNNAMED, named: false, created: now, at: now, turns: [] };
}

export function headOf(kept: Kept): ConversationHead {
  return { id: kept.id, title: kept.title, at: kept.at, turns: kept.turns.length };
}

/** Without the texts of the context, which the page does not show. */
export function viewOf(kept: Kept): Conversation {
  return { id: kept.id, title: kept.title, turns: kept.turns.map(turnView) };
}

export function turnView(turn: KeptTurn): Turn {
  const { id, question, mentions, images, model, answer, reasoning, sources, ending } = turn;
  return { id, question, mentions, images, model, answer, reasoning, sources, ...(ending && { ending }) };
}

export function turnOf(kept: Kept, id: string): KeptTurn | undefined {
  return kept.turns.find((turn) => turn.id === id);
}

/** A new question at the end; `from`: in the place of this turn and of all after it. Names a conversation that has no name. */
export function ask(kept: Kept, turn: KeptTurn, from?: string): Kept {
  const at = from === undefined ? -1 : kept.turns.findIndex((each) => each.id === from);
  const turns = [...(at < 0 ? kept.turns : kept.turns.slice(0, at)), turn];
  const title = kept.named || turns.length > 1 ? kept.title : titleOf(turn.question, turn.mentions);
  return { ...kept, title: title || UNNAMED, at: turn.at, turns };
}

/** The turn with other values; a turn that is gone (edited away meanwhile) changes nothing. */
export function change(kept: Kept, id: string, values: Partial<Omit<KeptTurn, "id">>, now: number): Kept {
  if (turnOf(kept, id) === undefined) return kept;
  const turns = kept.turns.map((turn) => (turn.id === id ? { ...turn, ...values } : turn));
  return { ...kept, at: now, turns };
}

export function finish(kept: Kept, id: string, ending: Ending, now: number): Kept {
  return change(kept, id, { ending }, now);
}

/** What was being answered when the editor went away counts as stopped; what had come is kept. */
export function settled(kept: Kept): Kept {
  if (kept.turns.every((turn) => turn.ending !== undefined)) return kept;
  const turns = kept.turns.map((turn) => (turn.ending === undefined ? { ...turn, ending: { stopped: true } } : turn));
  return { ...kept, turns };
}

export function rename(kept: Kept, title: string): Kept {
  const clean = title.replace(/\s+/g, " ").trim().slice(0, 120);
  return clean === "" ? { ...kept, named: false } : { ...kept, title: clean, named: true };
}

/** The turns that were taken away by asking again from `from`, without that one. */
export function laterThan(kept: Kept, from: string): readonly KeptTurn[] {
  const at = kept.turns.findIndex((turn) => turn.id === from);
  return at < 0 ? [] : kept.turns.slice(at + 1);
}
