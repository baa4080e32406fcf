/** A question being changed where it stands; what is being typed below stays as it is. */

import { h, show, textButton } from "./h";

interface EditorUse {
  cancel(): void;
  send(text: string): void;
}

export class QuestionEditor {
  readonly element: HTMLElement;
  readonly #box: HTMLTextAreaElement;
  readonly #why = h("p", { class: "why-not", role: "alert", hidden: true }, "Write a question.");

  /** `later`: how many questions after this one will be replaced. */
  constructor(
    question: string,
    later: number,
    private readonly use: EditorUse,
  ) {
    this.#box = h("textarea", { "aria-label": "Changed question", rows: 2, dir: "auto" });
    this.#box.value = question;
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    this.#box.addEventListener("input", () => this.#grow());
    const warning =
      later > 0 &&
      h(
        "p",
        { class: "note" },
        `Replaces this answer and the ${later === 1 ? "question" : `${later} questions`} after it.`,
      );
    const buttons = h(
      "div",
      { class: "buttons" },
      textButton("Ask", { class: "primary", onclick: () => this.#send() }),
      textButton("Cancel", { onclick: () => this.use.cancel() }),
    );
    this.element = h("div", { class: "question-editor" }, this.#box, warning, this.#why, buttons);
  }

  focus(): void {
    this.#grow();
    this.#box.focus();
    this.#box.setSelectionRange(this.#box.value.length, this.#box.value.length);
  }

  #key(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) this.#send();
    else if (event.key === "Escape") this.use.cancel();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #send(): void {
    const text = this.#box.value.trim();
    show(this.#why, text === "");
    if (text !== "") this.use.send(text);
  }

  #grow(): void {
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }
}
