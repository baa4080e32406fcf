import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import { EventParser } from "../../../src/api/sse";

const TEXT = "event: a\ndata: eins\ndata: zwei\n\n: comment\n\ndata:drei ü€😀\nid: 7\nretry: 1\n\ndata\n\n";
const EVENTS = [
  { name: "a", data: "eins\nzwei" },
  { name: "", data: "drei ü€😀" },
  { name: "", data: "" },
];

function parse(bytes: Uint8Array, size: number): unknown[] {
  const parser = new EventParser();
  const found: unknown[] = [];
  for (let at = 0; at < bytes.length; at += size) found.push(...parser.push(bytes.subarray(at, at + size)));
  return [...found, ...parser.end()];
}

describe("server-sent events", () => {
  it.each(["\n", "\r\n", "\r"])("are the same in chunks of any size, with lines ended by %j", (end) => {
    const bytes = Buffer.from(TEXT.replaceAll("\n", end));
    for (let size = 1; size <= bytes.length; size++) expect(parse(bytes, size)).toEqual(EVENTS);
  });

  it("begin behind a byte order mark", () => {
    expect(parse(Buffer.from("\ufeffdata: x\n\n"), 1)).toEqual([{ name: "", data: "x" }]);
  });

  it("that nothing ended are dropped, but for the end mark", () => {
    expect(parse(Buffer.from("data: half"), 3)).toEqual([]);
    expect(parse(Buffer.from("data: [DONE]"), 3)).toEqual([{ name: "", data: "[DONE]" }]);
  });

  it("of no end are refused", () => {
    const line = new EventParser(100);
    expect(() => {
      for (let at = 0; at < 20; at++) line.push(Buffer.from("data: xxxx"));
    }).toThrow(Fault);
    const lines = new EventParser(100);
    expect(() => {
      for (let at = 0; at < 60; at++) lines.push(Buffer.from("data: x\n"));
    }).toThrow(/100 characters/);
  });
});
