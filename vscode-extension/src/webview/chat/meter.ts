/** Below the question: which model answers, and how much of what it takes the question would fill. */

import type { ModelView } from "../../features/chat/protocol";
import { count, percent } from "../../features/figures";
import { fill, h, show } from "./h";
import type { Host } from "./host";
import { short } from "./numbers";
import type { View } from "./state";

const NEARLY = 0.9;

export class Meter {
  readonly element: HTMLElement;
  readonly #models = h("select", { class: "model", "aria-label": "Model", title: "Model that answers" });
  readonly #level = h("span", { class: "level" });
  readonly #figure = h("span", { class: "meter-figure" });
  readonly #meter = h(
    "span",
    { class: "meter", role: "img", hidden: true },
    h("span", { class: "bar" }, this.#level),
    this.#figure,
  );
  #drawn: View | undefined;

  constructor(host: Host) {
    this.#models.addEventListener("change", () => host.send({ type: "chooseModel", id: this.#models.value }));
    this.element = h("div", { class: "meters" }, this.#models, this.#meter);
  }

  update(view: View): void {
    const before = this.#drawn;
    this.#drawn = view;
    const { models = [], model } = view.chat ?? {};
    if (models !== before?.chat?.models || model !== before?.chat?.model) this.#showModels(models, model);
    if (view.tokens !== before?.tokens) this.#showTokens(view.tokens);
  }

  #showModels(models: readonly ModelView[], chosen: string | undefined): void {
    const known = models.some(({ id }) => id === chosen);
    const none = h("option", { value: "" }, models.length > 0 ? "Choose a model" : "No model");
    fill(this.#models, !known && none, ...models.map(({ id }) => h("option", { value: id }, id)));
    this.#models.value = known ? (chosen ?? "") : "";
    this.#models.disabled = models.length === 0;
  }

  #showTokens(tokens: View["tokens"]): void {
    show(this.#meter, tokens !== undefined && tokens.prompt > 0);
    if (!tokens) return;
    const { prompt, limit } = tokens;
    const share = limit ? prompt / limit : undefined;
    const words = limit
      ? `About ${count(prompt)} of ${count(limit)} tokens (${percent(share ?? 0)})`
      : `About ${count(prompt)} tokens`;
    const over =
      share !== undefined && share > 1 ? "More than the model takes. Remove a chip, or start a new chat." : "";
    this.#meter.title = [words, over].filter(Boolean).join("\n");
    this.#meter.setAttribute("aria-label", this.#meter.title);
    this.#figure.textContent = limit ? `${short(prompt)} / ${short(limit)}` : short(prompt);
    this.#level.style.width = `${Math.min(100, (share ?? 0) * 100)}%`;
    show(this.#level.parentElement ?? this.#level, limit !== undefined);
    this.#meter.classList.toggle("warning", share !== undefined && share > NEARLY);
  }
}
