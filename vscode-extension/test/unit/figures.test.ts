import { describe, expect, it } from "vitest";
import { cachedShare, count, milliseconds, percent } from "../../src/features/figures";

describe("figures", () => {
  it("are never 100 % before it is whole", () => {
    expect([0, 0.004, 0.996, 1, 1.2, -1, undefined, Number.NaN].map(percent)).toEqual([
      ...["0 %", "0 %", "99 %", "100 %", "100 %", "0 %", "", ""],
    ]);
  });

  it("are short", () => {
    expect([0.4, 84.4, 999.6, 1234, 65_400].map(milliseconds)).toEqual([
      "0 ms",
      "84 ms",
      "1.0 s",
      "1.2 s",
      "1 min 05 s",
    ]);
  });

  it("know no share where the engine did not tell", () => {
    expect(cachedShare(undefined)).toBeUndefined();
    expect(cachedShare({ prompt: 10, cached: undefined, completion: 1 })).toBeUndefined();
    expect(cachedShare({ prompt: 0, cached: 0, completion: 1 })).toBeUndefined();
    expect(cachedShare({ prompt: 10, cached: 5, completion: 0 })).toBe(0.5);
    expect(count(12431)).toBe("12,431");
  });
});
