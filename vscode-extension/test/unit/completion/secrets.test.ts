import { expect, test } from "vitest";
import { Desk } from "./desk";

const KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n█";
const never = new AbortController().signal;

test("a private key in a file of any name is not sent while you type", async () => {
  const desk = new Desk(() => ({ texts: ["x"] })).open(`notes\n${KEY}`);
  const here = { what: "notes.txt:4" };
  desk.session.ahead(desk.ask(here));
  expect(await desk.session.suggest(desk.ask(here), never)).toEqual([]);
  expect(desk.calls).toEqual([]);
  expect(desk.timeline.last("completion")?.why).toContain("private key");
});

test("who asks by key sends it, and code that only speaks of keys is code", async () => {
  const asked = new Desk(() => ({ texts: ["x"] })).open(KEY);
  await asked.shown({ what: "notes.txt:3", explicit: true });
  expect(asked.calls.length).toBeGreaterThan(0);
  const code = new Desk(() => ({ texts: ["x"] })).open(`marks = [\n  "${KEY}`);
  expect(await code.shown({ what: "marks.py:4" })).toEqual(["x"]);
});
