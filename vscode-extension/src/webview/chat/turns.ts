/** The conversation: a view for each turn, and what happens when something in an answer is clicked. */

import type { BlockPlace } from "../../features/chat/protocol";
import { around, fill, h } from "./h";
import type { Host } from "./host";
import { icon } from "./icons";
import type { View } from "./state";
import { TurnView } from "./turn";

const COPIED_MS = 1_500;

export class Turns {
  /** A log: screen readers tell each answer when it is whole (`aria-busy` until then). */
  readonly element = h("div", { class: "turns", role: "log", "aria-live": "polite", "aria-label": "Conversation" });
  #views = new Map<string, TurnView>();
  #drawn: View | undefined;

  constructor(private readonly host: Host) {
    this.element.addEventListener("click", (event) => this.#clicked(event));
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && around(event, "[data-href]") === event.target) this.#clicked(event);
    });
  }

  update(view: View): void {
    const before = this.#drawn;
    this.#drawn = view;
    const turns = view.chat?.current.turns ?? [];
    if (turns === before?.chat?.current.turns && view.applied === before.applied) return;
    if (view.chat?.current.id !== before?.chat?.current.id) {
      this.#views.clear();
      fill(this.element);
    }
    const gone = new Set(this.#views.keys());
    turns.forEach((turn, index) => {
      gone.delete(turn.id);
      const known = this.#views.get(turn.id) ?? new TurnView(this.host);
      this.#views.set(turn.id, known);
      known.update(turn, view.applied);
      const place = this.element.children[index];
      if (place !== known.element) this.element.insertBefore(known.element, place ?? null);
    });
    for (const id of gone) {
      this.#views.get(id)?.element.remove();
      this.#views.delete(id);
    }
  }

  #clicked(event: Event): void {
    const link = around(event, "[data-href]")?.dataset.href;
    if (link !== undefined) {
      event.preventDefault();
      // Selecting a part of a link's text is no click on it.
      if (event.type === "keydown" || document.getSelection()?.isCollapsed !== false) {
        this.host.send({ type: "openLink", href: link });
      }
      return;
    }
    const button = around(event, "[data-action]");
    const turn = around(event, "[data-turn]")?.dataset.turn;
    if (button && turn !== undefined) this.#act(button, turn);
  }

  #act(button: HTMLElement, turn: string): void {
    const action = button.dataset.action;
    const block = button.closest<HTMLElement>(".code");
    const place = block ? placeOf(block, turn) : undefined;
    if (action === "copyAnswer") {
      const answer = this.host.view().chat?.current.turns.find(({ id }) => id === turn)?.answer ?? "";
      this.#copy(button, answer);
    } else if (!place) return;
    else if (action === "accept" || action === "discard") {
      this.host.send({ type: "decide", turn, block: place.block, accepted: action === "accept" });
    } else if (action === "copy") this.#copy(button, place.code);
    else if (action === "apply" || action === "insert" || action === "runInTerminal") {
      this.host.send({ type: action, ...place });
    }
  }

  #copy(button: HTMLElement, text: string): void {
    this.host.send({ type: "copy", text });
    fill(button, icon("done"));
    button.classList.add("copied");
    setTimeout(() => {
      fill(button, icon("copy"));
      button.classList.remove("copied");
    }, COPIED_MS);
  }
}

function placeOf(block: HTMLElement, turn: string): BlockPlace {
  return {
    turn,
    block: Number(block.dataset.block),
    code: block.querySelector("pre > code")?.textContent ?? "",
    language: block.dataset.language ?? "",
    path: block.dataset.path,
  };
}
