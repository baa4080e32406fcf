/** Chips: what is sent along with a question. In the composer with a button that removes, in a turn without. */

import type { Mention } from "../../features/chat/protocol";
import { count } from "../../features/figures";
import { fill, h, iconButton } from "./h";
import { icon } from "./icons";
import { short } from "./numbers";

interface ChipUse {
  open(mention: Mention): void;
  /** Missing: the chip stays. */
  readonly remove?: (mention: Mention) => void;
}

/** Show these chips in a list element; none: the list hides. */
export function showChips(list: HTMLElement, mentions: readonly Mention[], use: ChipUse): void {
  list.hidden = mentions.length === 0;
  fill(list, ...mentions.map((mention) => chip(mention, use)));
}

export function chipList(label: string): HTMLElement {
  return h("ul", { class: "chips", "aria-label": label, hidden: true });
}

function chip(mention: Mention, { open, remove }: ChipUse): HTMLElement {
  const tokens = mention.tokens;
  const told = [
    mention.detail || mention.label,
    tokens === undefined ? undefined : `about ${count(tokens)} tokens`,
    mention.problem,
  ];
  const body = h(
    "button",
    { type: "button", class: "chip-body", title: told.filter(Boolean).join("\n"), onclick: () => open(mention) },
    icon(mention.problem ? "problems" : mention.kind),
    h("span", { class: "chip-label" }, mention.label),
    tokens !== undefined && h("span", { class: "chip-tokens", "aria-label": `${tokens} tokens` }, short(tokens)),
    mention.problem !== undefined && h("span", { class: "unseen" }, mention.problem),
  );
  const close = remove && iconButton("close", `Remove ${mention.label}`, { onclick: () => remove(mention) });
  return h("li", { class: mention.problem ? "chip warning" : "chip", "data-mention": mention.id }, body, close);
}
