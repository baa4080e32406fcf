/** How many tokens would be sent now: asked for at each key, so what is there already is counted once. */

import type { Model } from "../../api/gateway";
import type { TokenEstimate } from "../../context/tokens";
import type { KeptTurn } from "./conversation";
import { messagesOf, roomOf, sizeOf } from "./prompt";
import type { Mention } from "./protocol";

export class Meter {
  #counted: { readonly key: readonly unknown[]; readonly tokens: number } | undefined;

  constructor(private readonly estimate: TokenEstimate) {}

  /** History, as far as it fits, and chips and draft. */
  tokens(
    turns: readonly KeptTurn[],
    chips: readonly Mention[],
    draft: string,
    model: Model | undefined,
    settings: { readonly instructions: string; readonly maxTokens: number },
  ): number {
    const id = model?.id ?? "";
    const one = (text: string): number => this.estimate.message(id, text);
    const key = [turns, id, settings.instructions, settings.maxTokens, this.estimate.ratio(id)];
    if (this.#counted === undefined || key.some((part, at) => part !== this.#counted?.key[at])) {
      const wishes = { instructions: settings.instructions, vision: model?.role === "vision" };
      const room = roomOf(model?.maxLength, settings.maxTokens).prompt;
      this.#counted = { key, tokens: Math.min(room, sizeOf(messagesOf(turns, wishes), one)) };
    }
    return this.#counted.tokens + chips.reduce((sum, chip) => sum + (chip.tokens ?? 0), 0) + one(draft);
  }
}
