/** Following the end of the conversation, but only for who is there. */

import { h, show } from "./h";
import { icon } from "./icons";

const NEAR = 32;

export class Scroll {
  /** The button that goes to the end. */
  readonly button: HTMLButtonElement;
  #pinned = true;
  #last = 0;

  constructor(
    private readonly area: HTMLElement,
    private readonly moved: () => void,
  ) {
    this.button = h(
      "button",
      { type: "button", class: "to-end", hidden: true, onclick: () => this.toEnd() },
      icon("down"),
      "To the end",
    );
    area.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  /** Pixels from the top; -1: at the end. */
  get position(): number {
    return this.#pinned ? -1 : this.area.scrollTop;
  }

  toEnd(): void {
    this.#pinned = true;
    this.area.scrollTop = this.area.scrollHeight;
    show(this.button, false);
  }

  restore(position: number): void {
    if (position < 0) this.toEnd();
    else {
      this.#pinned = false;
      this.area.scrollTop = position;
      this.#last = position + 1;
      this.#scrolled();
    }
  }

  /** The content has changed. */
  follow(): void {
    if (this.#pinned && !this.#selecting()) this.area.scrollTop = this.area.scrollHeight;
    show(this.button, !this.#atEnd());
  }

  #scrolled(): void {
    const { scrollTop } = this.area;
    // Only a move upwards lets go: text that came meanwhile must not.
    if (this.#atEnd()) this.#pinned = true;
    else if (scrollTop < this.#last) this.#pinned = false;
    this.#last = scrollTop;
    show(this.button, !this.#pinned);
    this.moved();
  }

  #atEnd(): boolean {
    const { scrollTop, scrollHeight, clientHeight } = this.area;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  /** Text that is being selected must not run away. */
  #selecting(): boolean {
    const selection = document.getSelection();
    return selection?.isCollapsed === false && this.area.contains(selection.anchorNode);
  }
}
