/** What the page shows, made from the extension's messages and the page's own acts by one pure function. */

import type {
  AppliedState,
  ChatState,
  Conversation,
  ConversationHead,
  Mention,
  ModelView,
  Suggestion,
  ToPage,
  Turn,
} from "../../features/chat/protocol";

export interface Applied {
  readonly state: AppliedState;
  readonly detail: string;
}

export interface Notice {
  /** Tells one notice from the next. */
  readonly number: number;
  readonly text: string;
  readonly action?: { readonly label: string; readonly token: string } | undefined;
}

export interface History {
  readonly open: boolean;
  readonly query: string;
  readonly requestNumber: number;
  /** What the search found; undefined: it is not answered yet, or nothing is searched for. */
  readonly found: readonly ConversationHead[] | undefined;
}

export interface View {
  /** Undefined until the extension has told. */
  readonly chat: ChatState | undefined;
  /** By `appliedKey`. */
  readonly applied: Readonly<Record<string, Applied>>;
  readonly suggestions: { readonly requestNumber: number; readonly items: readonly Suggestion[] };
  readonly tokens: { readonly prompt: number; readonly limit: number | undefined } | undefined;
  readonly history: History;
  readonly notice: Notice | undefined;
  /** A question on its way to the extension: it stays in the box until its turn has started. */
  readonly asking: string | undefined;
  /** How many questions asked here have become turns, and the last of them: the box lets go of its text. */
  readonly started: { readonly number: number; readonly text: string };
  readonly focus: { readonly number: number; readonly text: string };
  /** A message was missed: the whole state is asked for again. */
  readonly lost: boolean;
}

/** What happens in the page itself. */
export type Act =
  | { readonly type: "asked"; readonly text: string }
  | { readonly type: "askForgotten" }
  | { readonly type: "mentionPicked"; readonly mention: Mention }
  | { readonly type: "mentionRemoved"; readonly id: string }
  | { readonly type: "historyOpened" }
  | { readonly type: "historyClosed" }
  | { readonly type: "historySearched"; readonly query: string }
  | { readonly type: "conversationRemoved"; readonly id: string; readonly title: string }
  | { readonly type: "conversationRenamed"; readonly id: string; readonly title: string }
  | { readonly type: "said"; readonly text: string }
  | { readonly type: "noticeClosed" };

/** An action of the page's own in a notice: `restore:ID`. */
export const RESTORE = "restore:";

export const EMPTY: View = {
  chat: undefined,
  applied: {},
  suggestions: { requestNumber: 0, items: [] },
  tokens: undefined,
  history: { open: false, query: "", requestNumber: 0, found: undefined },
  notice: undefined,
  asking: undefined,
  started: { number: 0, text: "" },
  focus: { number: 0, text: "" },
  lost: false,
};

export function appliedKey(turn: string, block: number): string {
  return `${turn} ${block}`;
}

/** The next view. Parts that did not change keep their identity; an unknown message changes nothing. */
export function reduce(view: View, message: ToPage | Act): View {
  switch (message.type) {
    case "state":
      return whole(view, message.state);
    case "turnStarted":
      return started(view, message.turn, message.from);
    case "delta":
      return grown(view, message);
    case "turnEnded":
      return withTurn(view, message.turn, (turn) => ({ ...turn, ending: message.ending }));
    case "sources":
      return withTurn(view, message.turn, (turn) => ({ ...turn, sources: message.sources }));
    case "suggestions":
      if (message.requestNumber < view.suggestions.requestNumber) return view;
      return { ...view, suggestions: { requestNumber: message.requestNumber, items: message.items } };
    case "mentions":
      return withChat(view, (chat) => ({ ...chat, mentions: message.mentions }));
    case "tokens":
      return { ...view, tokens: { prompt: message.prompt, limit: message.limit } };
    case "applied": {
      const applied = { state: message.state, detail: message.detail ?? "" };
      return { ...view, applied: { ...view.applied, [appliedKey(message.turn, message.block)]: applied } };
    }
    case "conversations":
      return listed(view, message.requestNumber, message.items);
    case "models":
      return withChat(view, (chat) => ({ ...chat, models: message.models, model: message.model }));
    case "connection":
      return withChat(view, (chat) => ({ ...chat, connection: message.connection }));
    case "folder":
      return withChat(view, (chat) => ({ ...chat, folder: message.folder }));
    case "focus":
      return { ...view, focus: { number: view.focus.number + 1, text: message.text ?? "" } };
    case "notice":
      return { ...noticed(view, message.text, message.action), asking: undefined };
    case "showHistory":
    case "historyOpened":
      return { ...view, history: { ...view.history, open: true, query: "", found: undefined } };
    default:
      return acted(view, message);
  }
}

function acted(view: View, act: Act): View {
  switch (act.type) {
    case "asked":
      return { ...view, asking: act.text, notice: undefined };
    case "askForgotten":
      return { ...view, asking: undefined };
    case "mentionPicked":
      return withChat(view, (chat) =>
        chat.mentions.some((mention) => mention.id === act.mention.id)
          ? chat
          : { ...chat, mentions: [...chat.mentions, act.mention] },
      );
    case "mentionRemoved":
      return withChat(view, (chat) => ({ ...chat, mentions: chat.mentions.filter(({ id }) => id !== act.id) }));
    case "historyClosed":
      return { ...view, history: { ...view.history, open: false, found: undefined } };
    case "historySearched": {
      const requestNumber = view.history.requestNumber + 1;
      return { ...view, history: { ...view.history, query: act.query, requestNumber, found: undefined } };
    }
    case "conversationRemoved": {
      const without = changeHeads(view, (heads) => heads.filter(({ id }) => id !== act.id));
      return noticed(without, `Deleted “${act.title}”.`, { label: "Undo", token: RESTORE + act.id });
    }
    case "conversationRenamed":
      return changeHeads(view, (heads) =>
        heads.map((head) => (head.id === act.id ? { ...head, title: act.title } : head)),
      );
    case "said":
      return noticed(view, act.text, undefined);
    case "noticeClosed":
      return { ...view, notice: undefined };
    default:
      return view;
  }
}

/** The turn that is being answered. */
export function running(view: View): Turn | undefined {
  const last = view.chat?.current.turns.at(-1);
  return last && !last.ending ? last : undefined;
}

export function modelOf(chat: ChatState | undefined): ModelView | undefined {
  return chat?.models.find((model) => model.id === chat.model);
}

/** Why nothing can be sent now, for people; undefined: it can. Nothing to send is no reason to explain: empty text. */
export function whyNot(view: View, text: string, images: number): string | undefined {
  const chat = view.chat;
  if (!chat) return "Waiting for the editor.";
  const { kind, why } = chat.connection;
  if (kind === "no_key" || kind === "unauthorized") return why || "The server wants a key.";
  if (running(view)) return "An answer is coming. Stop it, or wait for its end.";
  if (view.asking !== undefined) return "Sending.";
  if (images > 0 && !modelOf(chat)?.vision)
    return `${chat.model ?? "The model"} cannot see pictures. Remove them, or choose another model.`;
  if (text.trim() === "" && images === 0) return "";
  if (kind === "no_model") return why || "The server has no model for this.";
  return undefined;
}

function whole(view: View, chat: ChatState): View {
  const same = view.chat?.current.id === chat.current.id;
  return { ...view, chat, applied: same ? view.applied : {}, asking: undefined, lost: false };
}

function started(view: View, turn: Turn, from: string | undefined): View {
  const changed = withConversation(view, (current) => {
    const index = from === undefined ? -1 : current.turns.findIndex(({ id }) => id === from);
    const kept = index < 0 ? current.turns.filter(({ id }) => id !== turn.id) : current.turns.slice(0, index);
    return { ...current, turns: [...kept, turn] };
  });
  if (from !== undefined || view.asking === undefined) return changed;
  const cleared = withChat(changed, (chat) => ({ ...chat, draft: "", mentions: [] }));
  return { ...cleared, asking: undefined, started: { number: view.started.number + 1, text: view.asking } };
}

function grown(view: View, delta: Extract<ToPage, { type: "delta" }>): View {
  const turn = view.chat?.current.turns.find(({ id }) => id === delta.turn);
  if (!turn) return view; // of a conversation that is no longer shown
  if (delta.at > turn.answer.length) return { ...view, lost: true };
  const fresh = delta.text.slice(turn.answer.length - delta.at);
  const repeated = delta.text !== "" && fresh === "";
  const reasoning = repeated ? turn.reasoning : turn.reasoning + (delta.reasoning ?? "");
  return withTurn(view, delta.turn, (old) => ({ ...old, answer: old.answer + fresh, reasoning }));
}

function listed(view: View, requestNumber: number, items: readonly ConversationHead[]): View {
  if (requestNumber === 0) return withChat(view, (chat) => ({ ...chat, conversations: items }));
  if (requestNumber !== view.history.requestNumber) return view;
  return { ...view, history: { ...view.history, found: items } };
}

function changeHeads(view: View, change: (heads: readonly ConversationHead[]) => readonly ConversationHead[]): View {
  const changed = withChat(view, (chat) => ({ ...chat, conversations: change(chat.conversations) }));
  const found = view.history.found;
  return found ? { ...changed, history: { ...view.history, found: change(found) } } : changed;
}

function noticed(view: View, text: string, action: Notice["action"]): View {
  return { ...view, notice: { number: (view.notice?.number ?? 0) + 1, text, action } };
}

function withChat(view: View, change: (chat: ChatState) => ChatState): View {
  return view.chat ? { ...view, chat: change(view.chat) } : view;
}

function withConversation(view: View, change: (current: Conversation) => Conversation): View {
  return withChat(view, (chat) => ({ ...chat, current: change(chat.current) }));
}

function withTurn(view: View, id: string, change: (turn: Turn) => Turn): View {
  return withConversation(view, (current) => ({
    ...current,
    turns: current.turns.map((turn) => (turn.id === id ? change(turn) : turn)),
  }));
}
