/** The bars of a request: its time in parts, and its prompt tokens cached and computed. */

import { count, milliseconds } from "../../features/figures";
import type { PanelRow, Segment, Tokens } from "../../features/panelProtocol";

export const SEGMENTS: readonly Segment["kind"][] = ["here", "network", "gateway", "engine", "decode", "display"];
export const SEGMENT_NAMES: Readonly<Record<Segment["kind"], string>> = {
  here: "waiting here",
  network: "on the way",
  gateway: "at the gateway",
  engine: "queue and prompt",
  decode: "writing",
  display: "filters and display",
};

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 10;

/** One millisecond is one unit of the drawing; `rescale` says how many fit. */
export function timeBar(row: PanelRow, scale: number): SVGSVGElement {
  const words = row.segments.map((segment) => `${SEGMENT_NAMES[segment.kind]} ${milliseconds(segment.ms)}`);
  const bar = drawing("time", words.length === 0 ? "no time was measured" : words.join(", "));
  for (const [at, segment] of row.segments.entries())
    bar.append(part(segment.kind, segment.fromMs, segment.ms, words[at] ?? ""));
  rescale(bar, scale);
  return bar;
}

/** How many milliseconds the whole width stands for. */
export function rescale(bar: Element, scale: number): void {
  bar.setAttribute("viewBox", `0 0 ${Math.max(1, Math.round(scale))} ${HEIGHT}`);
}

/** Cached and computed prompt tokens; the whole width is this prompt. Undefined where the engine did not tell. */
export function tokenBar(tokens: Tokens | undefined): SVGSVGElement | undefined {
  if (tokens?.cached === undefined || tokens.computed === undefined || tokens.prompt <= 0) return undefined;
  const words = `${count(tokens.cached)} of ${count(tokens.prompt)} prompt tokens cached, ${count(tokens.computed)} computed`;
  const bar = drawing("tokens", words);
  bar.append(part("cached", 0, tokens.cached, words), part("computed", tokens.cached, tokens.computed, words));
  bar.setAttribute("viewBox", `0 0 ${tokens.prompt} ${HEIGHT}`);
  return bar;
}

function drawing(name: string, words: string): SVGSVGElement {
  const bar = document.createElementNS(SVG, "svg");
  bar.setAttribute("class", `bar ${name}`);
  bar.setAttribute("preserveAspectRatio", "none");
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", words);
  return bar;
}

function part(kind: string, from: number, length: number, words: string): SVGRectElement {
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("class", kind);
  rect.setAttribute("x", String(from));
  rect.setAttribute("y", "0");
  rect.setAttribute("width", String(Math.max(0, length)));
  rect.setAttribute("height", String(HEIGHT));
  const title = document.createElementNS(SVG, "title");
  title.textContent = words;
  rect.append(title);
  return rect;
}
