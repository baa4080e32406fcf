/** One request: its line, its bars, and its details when it is open. */

import { milliseconds, percent } from "../../features/figures";
import type { PanelRow, Tone } from "../../features/panelProtocol";
import { type Child, h, textButton } from "../chat/h";
import { SEGMENT_NAMES, timeBar, tokenBar } from "./bar";

interface Acts {
  toggle(id: number): void;
  copy(id: number): void;
}

const TONE_NAMES: Readonly<Record<Tone, string>> = {
  good: "good",
  slow: "slow",
  nothing: "nothing",
  failed: "failed",
  quiet: "left",
  running: "running",
};

export function rowElement(row: PanelRow, open: boolean, scale: number, acts: Acts): readonly Child[] {
  const share =
    row.tokens?.cached === undefined || row.tokens.prompt <= 0 ? "" : percent(row.tokens.cached / row.tokens.prompt);
  const head = h(
    "button",
    { type: "button", class: "head", "aria-expanded": open ? "true" : "false", onclick: () => acts.toggle(row.id) },
    h("span", { class: `tone ${row.tone}` }, TONE_NAMES[row.tone]),
    h("span", { class: "when" }, clockTime(row.at)),
    h("span", { class: "feature" }, row.feature),
    h("span", { class: "what", title: row.what }, row.what),
    h(
      "span",
      { class: "figures" },
      [row.feltMs === undefined ? "" : milliseconds(row.feltMs), share].filter(Boolean).join(" · "),
    ),
  );
  return [
    head,
    h("p", { class: "verdict" }, row.verdict),
    h("div", { class: "bars" }, row.segments.length > 0 && timeBar(row, scale), tokenBar(row.tokens)),
    open && details(row, acts),
  ];
}

function details(row: PanelRow, acts: Acts): HTMLElement {
  return h(
    "div",
    { class: "details" },
    h(
      "table",
      { class: "parts" },
      h("caption", {}, row.segments.length === 0 ? "No time was measured." : "Where the time went"),
      h(
        "tbody",
        {},
        ...row.segments.map((segment) =>
          h(
            "tr",
            {},
            h(
              "th",
              { scope: "row" },
              h("span", { class: `swatch ${segment.kind}`, "aria-hidden": "true" }),
              SEGMENT_NAMES[segment.kind],
            ),
            h("td", {}, milliseconds(segment.ms)),
            h("td", { class: "from" }, `from ${milliseconds(segment.fromMs)}`),
          ),
        ),
      ),
    ),
    h("dl", { class: "facts" }, ...row.facts.flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)])),
    row.requestId !== undefined &&
      h("p", { class: "hint" }, "Whoever runs the server finds this request by its id in the server's log."),
    textButton("Copy as JSON", { class: "secondary copy", onclick: () => acts.copy(row.id) }),
  );
}

function clockTime(at: number): string {
  const time = new Date(at);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}
