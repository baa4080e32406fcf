/** The popup that `@` opens below the question: rows by the extension, chosen by key or mouse. */

import type { Suggestion } from "../../features/chat/protocol";
import { around, fill, h } from "./h";
import type { Host } from "./host";
import { icon } from "./icons";
import { mentionAt, type TypedMention, typeInto } from "./mentionText";

const ID = "suggestions";

export class Suggest {
  readonly element = h("ul", { id: ID, class: "suggestions", role: "listbox", "aria-label": "Mentions", hidden: true });
  #typed: TypedMention | undefined;
  /** The `@` that Escape dismissed. */
  #dismissed = -1;
  #requestNumber = 0;
  /** Rows for this question and older ones belong to a popup that was closed. */
  #past = 0;
  #asked = "";
  #items: readonly Suggestion[] = [];
  #chosen = 0;

  constructor(
    private readonly box: HTMLTextAreaElement,
    private readonly host: Host,
    private readonly changed: () => void,
  ) {
    const attributes = { "aria-autocomplete": "list", "aria-controls": ID, "aria-expanded": "false" };
    for (const [name, value] of Object.entries(attributes)) box.setAttribute(name, value);
    this.element.addEventListener("mousedown", (event) => this.#pressed(event));
    this.element.addEventListener("mousemove", (event) => {
      const index = rowOf(event);
      if (index !== undefined && index !== this.#chosen) this.#choose(index);
    });
  }

  get visible(): boolean {
    return !this.element.hidden;
  }

  /** The text or the caret has changed. */
  typed(): void {
    const typed = mentionAt(this.box.value, this.box.selectionStart);
    if (typed?.from !== this.#dismissed) this.#dismissed = -1;
    if (!typed || this.#dismissed >= 0 || this.box.selectionStart !== this.box.selectionEnd) {
      this.close();
      return;
    }
    this.#typed = typed;
    const question = `${typed.kind ?? ""}:${typed.query}`;
    if (question === this.#asked) return;
    this.#asked = question;
    this.#requestNumber++;
    this.host.send({ type: "suggest", query: typed.query, kind: typed.kind, requestNumber: this.#requestNumber });
  }

  /** Rows have come; ones for an older question are shown too until better ones come. */
  update(requestNumber: number, items: readonly Suggestion[]): void {
    if (!this.#typed || items === this.#items || requestNumber <= this.#past || requestNumber > this.#requestNumber)
      return;
    this.#items = items;
    const nothing = items.length === 0;
    if (nothing && this.#typed.query === "" && !this.#typed.kind) {
      this.#hide();
      return;
    }
    fill(this.element, ...(nothing ? [h("li", { class: "nothing" }, "Nothing found")] : items.map(row)));
    this.element.hidden = false;
    this.box.setAttribute("aria-expanded", "true");
    this.#choose(0);
  }

  /** True where the popup took the key. */
  key(event: KeyboardEvent): boolean {
    if (!this.visible || event.ctrlKey || event.metaKey || event.altKey) return false;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (step !== undefined && this.#items.length > 0) this.#move(step);
    else if (event.key === "Escape") this.#dismiss();
    else if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey && this.#items.length > 0)
      this.#pick(this.#chosen);
    else return false;
    event.preventDefault();
    return true;
  }

  close(): void {
    this.#typed = undefined;
    this.#asked = "";
    this.#past = this.#requestNumber;
    this.#items = [];
    this.#hide();
  }

  #hide(): void {
    this.element.hidden = true;
    this.box.setAttribute("aria-expanded", "false");
    this.box.removeAttribute("aria-activedescendant");
  }

  #dismiss(): void {
    this.#dismissed = this.#typed?.from ?? -1;
    this.close();
  }

  #move(step: number): void {
    const count = this.#items.length;
    const next = this.#chosen + step;
    if (Math.abs(step) === 1) this.#choose((next + count) % count);
    else this.#choose(Math.min(count - 1, Math.max(0, next)));
  }

  #choose(index: number): void {
    this.#chosen = index;
    for (const [place, option] of [...this.element.children].entries()) {
      if (option.getAttribute("role") === "option") option.setAttribute("aria-selected", String(place === index));
    }
    const option = this.element.children[index];
    if (!option?.id) return;
    this.box.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView?.({ block: "nearest" });
  }

  #pressed(event: MouseEvent): void {
    event.preventDefault(); // the question keeps the focus
    const index = rowOf(event);
    if (index !== undefined) this.#pick(index);
  }

  #pick(index: number): void {
    const item = this.#items[index];
    const typed = this.#typed;
    if (!item || !typed) return;
    const caret = this.box.selectionStart;
    const goesOn = item.insert.endsWith(":");
    const space = goesOn || item.insert === "" || /^\s/.test(this.box.value.slice(caret)) ? "" : " ";
    this.close();
    typeInto(this.box, typed.from, caret, item.insert + space);
    if (!goesOn) {
      const { id, kind, label, detail } = item;
      this.host.act({ type: "mentionPicked", mention: { id, kind, label, detail } });
      this.host.send({ type: "addMention", id });
    }
    this.changed();
  }
}

function row(item: Suggestion, index: number): HTMLElement {
  return h(
    "li",
    { id: `${ID}-${index}`, role: "option", "data-row": index, title: item.detail },
    icon(item.icon),
    h("span", { class: "row-label" }, item.label),
    item.detail !== item.label && h("span", { class: "row-detail" }, item.detail),
  );
}

function rowOf(event: Event): number | undefined {
  const index = around(event, "[data-row]")?.dataset.row;
  return index === undefined ? undefined : Number(index);
}
