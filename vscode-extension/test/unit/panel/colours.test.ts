import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const WEBVIEW = join(import.meta.dirname, "../../../src/webview");
/** Of the editor's own themes: editor, side bar, widgets. */
const GROUNDS = {
  dark: ["#1f1f1f", "#181818", "#202020", "#1e1e1e", "#252526", "#121314", "#191a1b", "#000000"],
  light: ["#ffffff", "#f8f8f8", "#f3f3f3", "#fafafd", "#f0f0f3"],
};

function luminance(colour: string): number {
  const parts = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255);
  const [red = 0, green = 0, blue = 0] = parts.map((part) =>
    part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** By the WCAG's formula: 1 to 21. */
function contrast(one: string, other: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const sheets = readdirSync(WEBVIEW, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".css"))
  .map((name) => [name, readFileSync(join(WEBVIEW, name), "utf8")] as const);

it.each([
  ["amber", 3],
  ["amber-text", 4.5],
])("%s can be told from the ground, by %s to 1", (name, least) => {
  const sheet = readFileSync(join(WEBVIEW, "amber.css"), "utf8");
  const pair = [...sheet.matchAll(new RegExp(`--${name}: (#\\w{6});`, "g"))].map(([, hex]) => hex);
  expect(pair).toHaveLength(2);
  for (const [at, grounds] of [GROUNDS.dark, GROUNDS.light].entries())
    for (const ground of grounds) expect(contrast(pair[at] ?? "", ground), ground).toBeGreaterThanOrEqual(least);
});

it("takes no colour that some of the editor's own themes lack or hide", () => {
  for (const [name, text] of sheets) expect(text, name).not.toMatch(/charts-(orange|yellow)/);
});

it("marks the chosen filter in high contrast too", () => {
  const panel = sheets.find(([name]) => name.endsWith("panel.css"))?.[1] ?? "";
  expect(/button\.choice\[aria-pressed="true"\] \{[^}]*contrastActiveBorder/.test(panel)).toBe(true);
});
