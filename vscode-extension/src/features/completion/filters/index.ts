/** The filters in their order, and what became of a text on its way through them. */

import type { Where } from "../where";
import { blank } from "./blank";
import { brackets } from "./brackets";
import { cutOff } from "./cutOff";
import { echo } from "./echo";
import type { Filter } from "./filter";
import { indentation } from "./indentation";
import { midWord } from "./midWord";
import { nextLines } from "./nextLines";
import { overlap } from "./overlap";
import { sameAsAbove } from "./sameAsAbove";
import { trailing } from "./trailing";

/** What is not the document's language goes first, what looks at the whole goes last. */
export const FILTERS: readonly (readonly [name: string, filter: Filter])[] = [
  ["echo", echo],
  ["cutOff", cutOff],
  ["blank", blank],
  ["indentation", indentation],
  ["midWord", midWord],
  ["nextLines", nextLines],
  ["overlap", overlap],
  ["brackets", brackets],
  ["trailing", trailing],
  ["sameAsAbove", sameAsAbove],
];

export interface Outcome {
  readonly text: string;
  /** The filters that changed it, with their reasons; the last one dropped it if nothing is left. */
  readonly steps: readonly { readonly filter: string; readonly why: string }[];
}

/** Through all filters; ends at once where one drops it. */
export function filtered(text: string, where: Where): Outcome {
  const steps: { filter: string; why: string }[] = [];
  let current = text;
  for (const [name, filter] of FILTERS) {
    if (current === "") break;
    const result = filter(current, where);
    if (result.why !== undefined) steps.push({ filter: name, why: result.why });
    current = result.text;
  }
  return { text: current, steps };
}

const NOTHING = "the model had nothing to add";

/** In a sentence, for the trace. */
export function told(outcome: Outcome): string {
  if (outcome.steps.length === 0) return outcome.text === "" ? NOTHING : "";
  const last = outcome.steps.at(-1);
  if (outcome.text === "") return `dropped by ${last?.filter}: ${last?.why}`;
  return outcome.steps.map((step) => `${step.filter}: ${step.why}`).join("; ");
}
