/** The list of requests, newest first. Draws only the rows that changed, so that an open one stays where it is. */

import type { PanelRow } from "../../features/panelProtocol";
import { fill, h } from "../chat/h";
import { rescale } from "./bar";
import { rowElement } from "./row";
import { type State, scaleOf, visibleRows } from "./state";

interface Acts {
  toggle(id: number): void;
  copy(id: number): void;
  /** A row that came into view and whose account is not known. */
  seen(id: number): void;
}

interface Drawn {
  readonly element: HTMLLIElement;
  row: PanelRow;
  open: boolean;
}

const SEEN_WITHOUT_OBSERVER = 20;

export class RowList {
  readonly element: HTMLElement;
  readonly #list = h("ul", { class: "rows", "aria-label": "Requests, newest first" });
  readonly #empty = h("p", { class: "empty" });
  readonly #drawn = new Map<number, Drawn>();
  readonly #observer: IntersectionObserver | undefined;
  #scale = 0;

  constructor(private readonly acts: Acts) {
    this.element = h("main", {}, this.#empty, this.#list);
    this.#observer =
      typeof IntersectionObserver === "function" ? new IntersectionObserver((all) => this.#looked(all)) : undefined;
  }

  draw(state: State): void {
    const rows = visibleRows(state);
    const scale = scaleOf(rows);
    const shown = new Set(rows.map((row) => row.id));
    for (const [id, drawn] of this.#drawn) {
      if (shown.has(id)) continue;
      this.#observer?.unobserve(drawn.element);
      drawn.element.remove();
      this.#drawn.delete(id);
    }
    let place = this.#list.firstElementChild;
    for (const row of rows) {
      const element = this.#rowFor(row, state.open.has(row.id), scale);
      if (element === place) place = place.nextElementSibling;
      else this.#list.insertBefore(element, place);
    }
    if (scale !== this.#scale) for (const bar of this.#list.querySelectorAll("svg.time")) rescale(bar, scale);
    this.#scale = scale;
    this.#empty.hidden = rows.length > 0;
    this.#list.hidden = rows.length === 0;
    this.#empty.textContent = emptyWords(state);
    if (this.#observer === undefined) for (const row of rows.slice(0, SEEN_WITHOUT_OBSERVER)) this.#want(row);
  }

  dispose(): void {
    this.#observer?.disconnect();
  }

  #rowFor(row: PanelRow, open: boolean, scale: number): HTMLLIElement {
    const drawn = this.#drawn.get(row.id);
    if (drawn !== undefined && drawn.row === row && drawn.open === open) return drawn.element;
    const element = drawn?.element ?? h("li", { "data-id": row.id });
    const focused = element.contains(document.activeElement)
      ? (document.activeElement as HTMLElement).className
      : undefined;
    element.className = `row ${row.tone}`;
    fill(element, ...rowElement(row, open, scale, this.acts));
    if (focused !== undefined)
      [...element.querySelectorAll<HTMLElement>("button")].find((one) => one.className === focused)?.focus();
    this.#drawn.set(row.id, { element, row, open });
    if (drawn === undefined) this.#observer?.observe(element);
    else if (drawn.row.outcome !== row.outcome) {
      // It was in view while it ran: look again, now that the server can tell what became of it.
      this.#observer?.unobserve(element);
      this.#observer?.observe(element);
    }
    return element;
  }

  #looked(entries: readonly IntersectionObserverEntry[]): void {
    for (const entry of entries) {
      const id = Number((entry.target as HTMLElement).dataset.id);
      const row = this.#drawn.get(id)?.row;
      if (entry.isIntersecting && row !== undefined) this.#want(row);
    }
  }

  #want(row: PanelRow): void {
    if (row.requestId !== undefined && !row.asked && row.tone !== "running") this.acts.seen(row.id);
  }
}

function emptyWords(state: State): string {
  if (state.waiting) return "Loading";
  if (state.rows.size > 0) return "None of the last requests is of this kind.";
  return "No requests yet. Type in a file, edit a selection, or ask in the chat.";
}
