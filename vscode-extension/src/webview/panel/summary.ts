/** The figures above the list. */

import { count, milliseconds, percent } from "../../features/figures";
import type { Summary } from "../../features/panelProtocol";
import { type Child, h } from "../chat/h";

export function summaryPart(summary: Summary | undefined): readonly Child[] {
  if (summary === undefined || summary.requests === 0) return [];
  const { p50Ms, p95Ms, hitShare, measured } = summary;
  return [
    h(
      "dl",
      { class: "figures" },
      ...figure(
        "Waited, half of them",
        p50Ms === undefined ? "–" : milliseconds(p50Ms),
        `of ${count(measured)} that were answered by the server`,
      ),
      ...figure("Waited, 95 %", p95Ms === undefined ? "–" : milliseconds(p95Ms), "95 % were at least as quick"),
      ...figure(
        "Prompt from the cache",
        hitShare === undefined ? "–" : percent(hitShare),
        "share of all prompt tokens",
      ),
    ),
    h(
      "ul",
      { class: "outcomes", "aria-label": "What became of the requests" },
      ...summary.outcomes.map(([outcome, times]) => h("li", {}, `${outcome} `, h("strong", {}, count(times)))),
    ),
  ];
}

function figure(label: string, value: string, title: string): readonly Child[] {
  return [h("div", { title }, h("dt", {}, label), h("dd", {}, value))];
}
