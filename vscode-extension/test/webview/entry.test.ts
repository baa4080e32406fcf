// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from "vitest";
import type { FromPage } from "../../src/features/chat/protocol";

afterEach(() => vi.unstubAllGlobals());

it("starts in the place that the extension's shell has for it", async () => {
  const sent: FromPage[] = [];
  const editor = {
    postMessage: (message: FromPage) => sent.push(message),
    getState: () => undefined,
    setState: vi.fn(),
  };
  vi.stubGlobal("acquireVsCodeApi", () => editor);
  document.body.innerHTML = '<div id="app"></div>';
  await import("../../src/webview/chat");
  expect(sent).toEqual([{ type: "ready" }]);
  expect(document.querySelector("#app textarea")).not.toBeNull();
});

it("needs nothing of the page but what its content policy allows", () => {
  for (const element of document.querySelectorAll("#app *")) {
    expect(element.matches("script, style, link, iframe, [onclick]"), element.outerHTML.slice(0, 80)).toBe(false);
  }
});
