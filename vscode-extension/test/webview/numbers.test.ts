import { describe, expect, it } from "vitest";
import { ago, cost, costDetail, short } from "../../src/webview/chat/numbers";

describe("figures", () => {
  it("are short and honest", () => {
    expect([999, 1000, 12431, 99_960, 131072].map(short)).toEqual(["999", "1k", "12.4k", "100k", "131k"]);
  });

  it("tell when", () => {
    const now = Date.UTC(2026, 5, 15, 12);
    const minute = 60_000;
    expect([0, 5, 59, 60, 23 * 60, 25 * 60].map((minutes) => ago(now - minutes * minute, now))).toEqual([
      "just now",
      "5 min ago",
      "59 min ago",
      "1 h ago",
      "23 h ago",
      "yesterday",
    ]);
    expect(ago(now - 10 * 24 * 60 * minute, now)).toMatch(/Jun 5, 2026/);
  });

  it("make the line below an answer", () => {
    const usage = { prompt: 1234, cached: 1100, completion: 101 };
    expect(cost({ usage, firstTokenMs: 85 })).toBe("1,234 tokens, 1,100 cached (89\u00a0%), first token 85\u00a0ms");
    expect(cost({ usage: { ...usage, cached: undefined } })).toBe("1,234 tokens");
    expect(cost({})).toBe("");
    expect(costDetail({ usage, firstTokenMs: 100, totalMs: 2100, context: "auto" })).toBe(
      "101 tokens written, 50 a second\n2.1 s in all\ncontext: auto",
    );
    expect(costDetail({ usage: { ...usage, completion: 1 } })).toBe("1 tokens written");
  });
});
