/** Building DOM without markup: text is always text, so nothing that a model wrote can become an element. */

import { type IconName, icon } from "./icons";

export type Child = Node | string | undefined | false;
type Handler = (event: Event) => void;
type Props = Readonly<Record<string, string | number | boolean | undefined | Handler>>;

/** An element. Functions named `on…` become listeners, `true` an empty attribute; `false` and undefined are left out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...present(children));
  return element;
}

/** A button with a picture; `label` is its name for screen readers and its tool tip. */
export function iconButton(picture: IconName, label: string, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "icon", title: label, "aria-label": label, ...props }, icon(picture));
}

/** A button with words. */
export function textButton(label: string, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", ...props }, label);
}

/** Show or hide without losing the place in the page. */
export function show(element: HTMLElement, visible: boolean): void {
  element.hidden = !visible;
}

/** Replace an element's children. */
export function fill(element: Element, ...children: readonly Child[]): void {
  element.replaceChildren(...present(children));
}

/** The nearest element around an event's target that matches, inside of the listener's own element or not at all. */
export function around(event: Event, selector: string): HTMLElement | undefined {
  const target = event.target;
  return target instanceof Element ? (target.closest<HTMLElement>(selector) ?? undefined) : undefined;
}

function present(children: readonly Child[]): (Node | string)[] {
  return children.filter((child): child is Node | string => child !== undefined && child !== false && child !== "");
}
