/** How many tokens a text is, without the model's tokenizer: by characters, corrected by what the server counted. */

const FIRST_GUESS = 3.5;
/** A message's own tokens: role and separators. */
const FRAME = 8;
const MODELS = 50;
/** Below this the template's tokens weigh more than the text's. */
const ENOUGH = 800;

/** Characters, with those of scripts that have no spaces weighed as a token each. */
export function weight(text: string): number {
  let wide = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code >= 0x2e80 && code < 0xd800) wide++;
  }
  return text.length + wide * (FIRST_GUESS - 1);
}

/** Characters per token, by model; each answer's usage makes the next estimate better. */
export class TokenEstimate {
  readonly #ratios = new Map<string, number>();

  /** Estimated tokens of a text as one message of a conversation with this model. */
  message(model: string, text: string): number {
    return FRAME + this.text(model, text);
  }

  text(model: string, text: string): number {
    return Math.ceil(weight(text) / this.ratio(model));
  }

  /** Characters per token. */
  ratio(model: string): number {
    return this.#ratios.get(model) ?? FIRST_GUESS;
  }

  /** The server counted `tokens` for messages of this weight (its own context already taken off). */
  learn(model: string, weighed: number, messages: number, tokens: number): void {
    const own = tokens - messages * FRAME;
    if (weighed < ENOUGH || own <= 0) return;
    const seen = Math.min(8, Math.max(1, weighed / own));
    const before = this.#ratios.get(model);
    this.#ratios.delete(model);
    this.#ratios.set(model, before === undefined ? seen : (before + seen) / 2);
    if (this.#ratios.size > MODELS) for (const oldest of this.#ratios.keys()) return void this.#ratios.delete(oldest);
  }
}

/** Tokens that the server put in front, by its `x-aicockpit-context` header; undefined: it did not tell. */
export function contextTokens(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const found = /^\s*(\d+) tokens\b/.exec(header);
  if (found !== null) return Number(found[1]);
  return /^\s*none\b/.test(header) ? 0 : undefined;
}
