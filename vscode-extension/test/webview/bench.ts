/** A page with a make-believe editor around it, for the tests of the chat page. */

import type { ChatState, FromPage, Mention, ToPage, Turn } from "../../src/features/chat/protocol";
import type { EditorApi } from "../../src/webview/chat/host";
import { type Page, startPage } from "../../src/webview/chat/page";

export function turn(id: string, change: Partial<Turn> = {}): Turn {
  return {
    id,
    question: `question ${id}`,
    mentions: [],
    images: [],
    model: "coder",
    answer: `answer ${id}`,
    reasoning: "",
    sources: [],
    ending: {},
    ...change,
  };
}

export function mention(id: string, change: Partial<Mention> = {}): Mention {
  return { id, kind: "file", label: `${id}.ts`, detail: `src/${id}.ts`, tokens: 1200, ...change };
}

export function chatState(change: Partial<ChatState> = {}): ChatState {
  return {
    conversations: [],
    current: { id: "c1", title: "New chat", turns: [] },
    models: [{ id: "coder", maxLength: 32768, vision: false }],
    model: "coder",
    connection: { kind: "ready", why: "", fix: "" },
    draft: "",
    mentions: [],
    ...change,
  };
}

export interface Bench {
  readonly page: Page;
  readonly root: HTMLElement;
  readonly sent: FromPage[];
  saved(): unknown;
  tell(message: ToPage): void;
  /** Sent messages of one type. */
  of<T extends FromPage["type"]>(type: T): Extract<FromPage, { type: T }>[];
  find<E extends HTMLElement = HTMLElement>(selector: string): E;
  all(selector: string): HTMLElement[];
  button(label: string): HTMLButtonElement;
  readonly box: HTMLTextAreaElement;
  type(text: string): void;
  key(element: HTMLElement, key: string, more?: KeyboardEventInit): KeyboardEvent;
}

export function bench(state?: ChatState, savedState?: unknown): Bench {
  document.body.replaceChildren();
  const root = document.createElement("div");
  root.id = "app";
  document.body.append(root);
  const sent: FromPage[] = [];
  let saved = savedState;
  const editor: EditorApi = {
    postMessage: (message) => sent.push(message),
    getState: () => saved,
    setState: (next) => {
      saved = next;
    },
  };
  const page = startPage(root, editor, (draw) => draw());
  const find = <E extends HTMLElement = HTMLElement>(selector: string): E => {
    const found = root.querySelector<E>(selector);
    if (!found) throw new Error(`nothing matches ${selector}`);
    return found;
  };
  const result: Bench = {
    page,
    root,
    sent,
    saved: () => saved,
    tell: (message) => page.receive(message),
    of: (type) => sent.filter((message): message is Extract<FromPage, { type: typeof type }> => message.type === type),
    find,
    all: (selector) => [...root.querySelectorAll<HTMLElement>(selector)],
    button: (label) => {
      const found = [...root.querySelectorAll("button")].find(
        (button) => (button.getAttribute("aria-label") ?? button.textContent) === label,
      );
      if (!found) throw new Error(`no button ${label}`);
      return found;
    },
    box: find<HTMLTextAreaElement>(".composer textarea"),
    type: (text) => {
      result.box.value = text;
      result.box.setSelectionRange(text.length, text.length);
      result.box.dispatchEvent(new Event("input", { bubbles: true }));
    },
    key: (element, key, more = {}) => {
      const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
      element.dispatchEvent(event);
      return event;
    },
  };
  if (state) result.tell({ type: "state", state });
  return result;
}
