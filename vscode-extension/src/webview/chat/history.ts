/** Earlier conversations: found by words, opened, renamed, exported, deleted with a way back. */

import type { ConversationHead } from "../../features/chat/protocol";
import { fill, h, iconButton, show } from "./h";
import type { Host } from "./host";
import { ago } from "./numbers";
import type { View } from "./state";

const SEARCH_MS = 120;

export class HistoryList {
  readonly element: HTMLElement;
  readonly #search = h("input", {
    type: "search",
    placeholder: "Search earlier chats",
    "aria-label": "Search earlier chats",
  });
  readonly #list = h("ul", { class: "conversations" });
  readonly #nothing = h("p", { class: "note", role: "status", hidden: true });
  #timer: ReturnType<typeof setTimeout> | undefined;
  #drawn: View | undefined;

  constructor(
    private readonly host: Host,
    private readonly clock: () => number = Date.now,
  ) {
    const back = iconButton("back", "Back to the chat (Escape)", { onclick: () => this.#close() });
    const head = h("div", { class: "history-head" }, back, this.#search);
    const props = { class: "history", "aria-label": "Earlier chats", hidden: true };
    this.element = h("section", props, head, this.#nothing, this.#list);
    this.#search.addEventListener("input", () => this.#searched());
    this.element.addEventListener("keydown", (event) => this.#key(event));
  }

  update(view: View): void {
    const before = this.#drawn;
    this.#drawn = view;
    const { open } = view.history;
    show(this.element, open);
    if (!open) return;
    if (!before?.history.open) {
      this.#search.value = "";
      this.#search.focus();
    }
    const unchanged = before?.history === view.history && before.chat?.conversations === view.chat?.conversations;
    if (unchanged && before?.chat?.current.id === view.chat?.current.id) return;
    const waits = view.history.query !== "" && view.history.found === undefined;
    if (waits) return; // what is shown stays until the answer is there
    this.#show(view.history.found ?? view.chat?.conversations ?? [], view);
  }

  #show(heads: readonly ConversationHead[], view: View): void {
    if (this.#list.querySelector("input")) return; // a title is being changed
    const focused = document.activeElement?.closest("li")?.dataset.conversation;
    const now = this.clock();
    fill(this.#list, ...heads.map((head) => this.#row(head, head.id === view.chat?.current.id, now)));
    const none = view.history.query === "" ? "No earlier chats in this folder." : "No chat has these words.";
    fill(this.#nothing, heads.length === 0 && none);
    show(this.#nothing, heads.length === 0);
    const again = [...this.#list.children].find((row) => (row as HTMLElement).dataset.conversation === focused);
    if (focused !== undefined) (again ?? this.element).querySelector<HTMLElement>("button, input")?.focus();
  }

  #row(head: ConversationHead, current: boolean, now: number): HTMLElement {
    const { id, title } = head;
    const when = `${ago(head.at, now)}, ${head.turns} ${head.turns === 1 ? "question" : "questions"}`;
    const open = h(
      "button",
      {
        type: "button",
        class: "conversation",
        title,
        "aria-current": current && "true",
        onclick: () => this.#open(id),
      },
      h("span", { class: "conversation-title" }, title || "Untitled"),
      h("span", { class: "conversation-when" }, when),
    );
    const row = h(
      "li",
      { "data-conversation": id },
      open,
      iconButton("edit", `Rename ${title}`, { onclick: () => this.#rename(row, head) }),
      iconButton("export", `Export ${title}`, { onclick: () => this.host.send({ type: "exportConversation", id }) }),
      iconButton("remove", `Delete ${title}`, { onclick: () => this.#remove(row, head) }),
    );
    return row;
  }

  #open(id: string): void {
    this.host.send({ type: "openConversation", id });
    this.#close();
  }

  #close(): void {
    this.host.act({ type: "historyClosed" });
  }

  #remove(row: HTMLElement, { id, title }: ConversationHead): void {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    (next?.querySelector<HTMLElement>("button") ?? this.#search).focus();
    this.host.send({ type: "deleteConversation", id });
    this.host.act({ type: "conversationRemoved", id, title });
  }

  #rename(row: HTMLElement, { id, title }: ConversationHead): void {
    const box = h("input", { type: "text", "aria-label": "New title", maxlength: 200 });
    box.value = title;
    let ended = false;
    const end = (keep: boolean): void => {
      if (ended) return;
      ended = true;
      const wanted = box.value.trim();
      box.replaceWith(...old);
      if (keep && wanted !== "" && wanted !== title) {
        this.host.send({ type: "renameConversation", id, title: wanted });
        this.host.act({ type: "conversationRenamed", id, title: wanted });
      }
      row.querySelector("button")?.focus();
    };
    box.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    box.addEventListener("blur", () => end(true));
    const old = [...row.childNodes];
    row.replaceChildren(box);
    box.focus();
    box.select();
  }

  #searched(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const query = this.#search.value.trim();
      this.host.act({ type: "historySearched", query });
      this.host.send({ type: "searchConversations", query, requestNumber: this.host.view().history.requestNumber });
    }, SEARCH_MS);
  }

  #key(event: KeyboardEvent): void {
    if (event.key === "Escape") this.#close();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") this.#step(event.key === "ArrowDown" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  #step(step: number): void {
    const stops: HTMLElement[] = [this.#search, ...this.#list.querySelectorAll<HTMLElement>("button.conversation")];
    const row = document.activeElement?.closest("li");
    const at = stops.findIndex(
      (stop) => stop === document.activeElement || (row !== null && stop.parentElement === row),
    );
    stops[Math.min(stops.length - 1, Math.max(0, at + step))]?.focus();
  }
}
