/** One line above the question that goes away by itself, maybe with a button. */

import { fill, h, iconButton, show, textButton } from "./h";
import type { Host } from "./host";
import { type Notice, RESTORE, type View } from "./state";

const SHOWN_MS = 6_000;
const SHOWN_WITH_ACTION_MS = 12_000;

export class Notices {
  readonly element = h("div", { class: "notice", role: "status", hidden: true });
  #shown: Notice | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly host: Host) {
    // Who reads it or is about to press its button keeps it.
    for (const name of ["mouseenter", "focusin"]) this.element.addEventListener(name, () => clearTimeout(this.#timer));
    for (const name of ["mouseleave", "focusout"]) this.element.addEventListener(name, () => this.#fade());
  }

  update(view: View): void {
    const notice = view.notice;
    if (notice === this.#shown) return;
    this.#shown = notice;
    show(this.element, notice !== undefined);
    clearTimeout(this.#timer);
    if (!notice) return;
    const { action } = notice;
    const button = action && textButton(action.label, { onclick: () => this.#acted(action.token) });
    const close = iconButton("close", "Close", { onclick: () => this.host.act({ type: "noticeClosed" }) });
    fill(this.element, h("span", {}, notice.text), button, close);
    this.#fade();
  }

  #acted(token: string): void {
    this.host.act({ type: "noticeClosed" });
    if (token.startsWith(RESTORE)) this.host.send({ type: "restoreConversation", id: token.slice(RESTORE.length) });
    else this.host.send({ type: "act", token });
  }

  #fade(): void {
    clearTimeout(this.#timer);
    const number = this.#shown?.number;
    this.#timer = setTimeout(
      () => {
        if (this.host.view().notice?.number === number) this.host.act({ type: "noticeClosed" });
      },
      this.#shown?.action ? SHOWN_WITH_ACTION_MS : SHOWN_MS,
    );
  }
}
