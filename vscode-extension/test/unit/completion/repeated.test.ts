import { expect, test } from "vitest";
import { Desk } from "./desk";

const ABOVE = "def f(items):\n";
const SUFFIX = "\n\nprint(f([]))\n";

/** How much of the second request the first one began with. */
async function repeated(change: (desk: Desk) => Desk, uri?: string): Promise<number | undefined> {
  const desk = new Desk(() => ({ texts: ["zz"] })).open(`${ABOVE}    re█${SUFFIX}`);
  await desk.shown();
  expect(desk.timeline.last()?.repeated).toBe(0);
  await change(desk).shown(uri === undefined ? {} : { uri });
  expect(desk.calls).toHaveLength(2);
  return desk.timeline.last()?.repeated;
}

test("a key in the same line repeats the suffix too, which the server puts in front of that line", async () => {
  expect(await repeated((desk) => desk.type("t"))).toBe(`${ABOVE}${SUFFIX}    re`.length);
  expect(await repeated((desk) => desk.backspace())).toBe(`${ABOVE}${SUFFIX}    r`.length);
  expect(await repeated((desk) => desk.backspace(2).type("x"))).toBe(`${ABOVE}${SUFFIX}    `.length);
});

test("a new line, a line that is gone and another suffix repeat what stands above the line", async () => {
  expect(await repeated((desk) => desk.type("\n    "))).toBe(ABOVE.length);
  expect(await repeated((desk) => desk.type("t(", ")"))).toBe(ABOVE.length);
  expect(await repeated((desk) => desk.backspace(7))).toBe(0);
});

test("a change above the line leaves what is above the change, and another document nothing", async () => {
  const renamed = (desk: Desk): Desk => desk.open(`def f(values):\n    re█${SUFFIX}`);
  expect(await repeated(renamed)).toBe("def f(".length);
  expect(await repeated((desk) => desk.type("t"), "file:///b.py")).toBe(0);
});
