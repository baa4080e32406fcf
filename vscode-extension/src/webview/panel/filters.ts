/** Which requests are listed, the legend of the bars, and the button that copies all. */

import { type Child, h, textButton } from "../chat/h";
import { SEGMENT_NAMES, SEGMENTS } from "./bar";
import { type Choice, FEATURES, type FeatureChoice, type State, TONES, type ToneChoice } from "./state";

const FEATURE_NAMES: Readonly<Record<FeatureChoice, string>> = {
  all: "All",
  completion: "Completion",
  edit: "Edit",
  chat: "Chat",
  terminal: "Terminal",
  docs: "Docs",
};
const TONE_NAMES: Readonly<Record<ToneChoice, string>> = {
  all: "Everything",
  slow: "Only slow",
  nothing: "Only nothing",
};

interface Acts {
  choose(choice: Partial<Choice>): void;
  copyAll(): void;
}

export function filterBar(state: State, acts: Acts): readonly Child[] {
  const { summaries, choice } = state;
  const count = (feature: FeatureChoice) => summaries[feature]?.requests ?? 0;
  const features = FEATURES.filter((feature) => feature === "all" || feature === choice.feature || count(feature) > 0);
  const chosen = summaries[choice.feature];
  const many: Readonly<Record<ToneChoice, number | undefined>> = {
    all: undefined,
    slow: chosen?.slow ?? 0,
    nothing: chosen?.nothing ?? 0,
  };
  return [
    h(
      "div",
      { class: "choices", role: "group", "aria-label": "Feature" },
      ...features.map((feature) =>
        button(`feature-${feature}`, FEATURE_NAMES[feature], count(feature), choice.feature === feature, () =>
          acts.choose({ feature }),
        ),
      ),
    ),
    h(
      "div",
      { class: "choices", role: "group", "aria-label": "What came of it" },
      ...TONES.map((tone) =>
        button(`tone-${tone}`, TONE_NAMES[tone], many[tone], choice.tone === tone, () => acts.choose({ tone })),
      ),
    ),
    textButton("Copy all as JSON", { class: "secondary", "data-key": "copy-all", onclick: () => acts.copyAll() }),
    h(
      "ul",
      { class: "legend", "aria-label": "Colours of the bars" },
      ...SEGMENTS.map((kind) =>
        h("li", {}, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), SEGMENT_NAMES[kind]),
      ),
    ),
  ];
}

function button(
  key: string,
  label: string,
  many: number | undefined,
  pressed: boolean,
  onclick: () => void,
): HTMLElement {
  const words = many === undefined ? label : `${label} ${many}`;
  return textButton(words, { class: "choice", "data-key": key, "aria-pressed": pressed ? "true" : "false", onclick });
}
