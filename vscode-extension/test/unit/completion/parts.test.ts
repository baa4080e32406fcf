import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { indentOf, missingClosers, scan } from "../../../src/features/completion/brackets";
import { Cache, sameSuffix, tailHashes } from "../../../src/features/completion/cache";
import { caretAfter } from "../../../src/features/completion/caret";
import { filtered, told } from "../../../src/features/completion/filters";
import { Focus } from "../../../src/features/completion/focus";
import { type Circumstances, isOn, refusal } from "../../../src/features/completion/permission";
import { SnoozeState } from "../../../src/features/completion/snooze";
import { stopAt } from "../../../src/features/completion/stop";
import { indentIn, whereOf } from "../../../src/features/completion/where";
import { Timeline } from "../../../src/features/timeline";

function modeOf(text: string, language: string, multiline: "auto" | "always" | "never" = "auto") {
  const [prefix = "", suffix = ""] = text.split("█");
  const { mode, why } = whereOf(prefix, suffix, language, multiline);
  return `${mode}: ${why}`;
}

describe("how many lines", () => {
  test.each([
    ["def f():█", "python", "block: a block begins"],
    ["def f():  # says█", "python", "block: a block begins"],
    ["if (x) {█", "typescript", "block: a block begins"],
    ["const f = () =>█", "typescript", "block: a block begins"],
    ["<ul>█", "html", "block: a block begins"],
    ["<br>█", "html", "statement: nothing follows on the line"],
    ["while true; do█", "shellscript", "block: a block begins"],
    ["def name█", "ruby", "block: a block begins"],
    ["x = █", "python", "statement: nothing follows on the line"],
    ["def f():\n    █", "python", "block: the first line of a block"],
    ["x = 1\n█", "python", "block: an empty line"],
    ["foo(█)", "typescript", "block: a block begins inside brackets"],
    ["foo(a█)", "typescript", "statement: only closing brackets follow"],
    ["foo({█});", "typescript", "block: a block begins inside brackets"],
    ["foo(█, 1)", "typescript", "line: text follows the cursor on its line"],
    ["// a█", "go", "line: in a comment"],
    ["Some words█", "markdown", "line: nothing follows on the line"],
  ])("%j in %s: %s", (text, language, expected) => {
    expect(modeOf(text, language)).toBe(expected);
  });

  test("the setting has the last word, but for text behind the cursor", () => {
    expect(modeOf("def f():█", "python", "never")).toBe("line: several lines are switched off");
    expect(modeOf("x = █", "python", "always")).toBe("block: several lines are always allowed");
    expect(modeOf("x = █ + 1", "python", "always")).toBe("line: text follows the cursor on its line");
  });
});

describe("stop rules", () => {
  test("a long block ends after 32 lines", () => {
    const where = whereOf("def f():", "", "python", "auto");
    const raw = Array.from({ length: 60 }, (_, index) => `\n    a${index} = ${index}`).join("");
    expect(stopAt(raw, where)?.text.split("\n")).toHaveLength(32);
  });

  test("nothing is certain before the first line is over", () => {
    const where = whereOf("x = ", "", "python", "auto");
    expect(stopAt("compute(1, 2", where)).toBeUndefined();
    expect(stopAt("compute(1, 2)", where)).toBeUndefined();
    expect(stopAt("compute(1, 2)\n", where)?.text).toBe("compute(1, 2)");
  });
});

describe("brackets", () => {
  test("in strings and comments are words", () => {
    expect(scan("a('(') + \"[\" // {", "typescript")).toEqual({ open: [], closed: [] });
    expect(scan('"""( don\'t"""', "python")).toEqual({ open: [], closed: [] });
    expect(scan("x[0]) # (", "python").closed).toEqual([{ bracket: ")", at: 4 }]);
    expect(scan("f(http://x)", "go")).toEqual({ open: [], closed: [] });
  });

  test("missing are those that nothing behind the cursor closes", () => {
    expect(missingClosers("f(a, [b", "", "go")).toEqual(["]", ")"]);
    expect(missingClosers("f(a", ")", "go")).toEqual([]);
    expect(missingClosers("fn x() {\n  if y {\n    ", "\n}\n", "go")).toEqual(["}"]);
    expect(missingClosers("fn x() {\n  if y {\n    ", "\n  }\n}\n", "go")).toEqual([]);
  });

  test("indentation counts tabs to the next step", () => {
    expect([indentOf("\tx"), indentOf("  \tx"), indentOf("   x")]).toEqual([4, 4, 3]);
  });

  test("a document's step is told by its lines", () => {
    expect(indentIn(["a", "  b", "    c"])).toEqual({ tabs: false, size: 2 });
    expect(indentIn(["a", "\tb"])).toEqual({ tabs: true, size: 4 });
    expect(indentIn(["a", "\tb"]).tabs).toBe(true);
    expect(indentIn(["a"])).toMatchObject({ tabs: false, size: 4 });
  });
});

describe("filters", () => {
  test("say what they did, in order", () => {
    const where = whereOf("print(len(", "))\n", "python", "auto");
    const outcome = filtered("items))  ", where);
    expect(outcome.text).toBe("items");
    expect(told(outcome)).toBe("overlap: its end stands behind the cursor already");
    expect(told(filtered("print(len(", where))).toContain("dropped by echo");
  });
});

describe("the cache", () => {
  const trace = new Timeline().begin("completion", "m", "a:1");
  const entry = (text: string) => ({ uri: "u", suffix: "", texts: [text], why: "", at: 0, trace, began: 0 });

  test("finds by walking back over what was typed", () => {
    const cache = new Cache();
    cache.put("s", "abc", entry("defgh"));
    expect(cache.find("s", "u", "abcde", "", 1)?.rests).toEqual(["fgh"]);
    expect(cache.find("s", "u", "abcdx", "", 1)).toBeUndefined();
    expect(cache.find("s", "u", "abcdefgh", "", 1)).toBeUndefined();
    expect(cache.find("t", "u", "abcde", "", 1)).toBeUndefined();
    expect(cache.find("s", "u", "abcde", "x", 1)).toBeUndefined();
    expect(cache.find("s", "u", "abcde", "", 400_000)).toBeUndefined();
  });

  test("forgets the least recently used, by count and by bytes", () => {
    const cache = new Cache(3, 1_000);
    for (const name of ["a", "b", "c"]) cache.put("s", name, entry("x"));
    cache.find("s", "u", "a", "", 1);
    cache.put("s", "d", entry("x"));
    expect(cache.find("s", "u", "b", "", 1)).toBeUndefined();
    expect(cache.find("s", "u", "a", "", 1)?.rests).toEqual(["x"]);
    cache.put("s", "e", entry("y".repeat(400)));
    expect(cache.bytes).toBeLessThanOrEqual(1_000);
    cache.put("s", "f", entry("y".repeat(4_000)));
    expect([cache.size, cache.bytes]).toEqual([0, 0]);
  });

  test("hashes of the ends are those of the shorter texts", () => {
    const text = "def f():\n    return 😀".repeat(20);
    const keys = tailHashes("seed", text, 50);
    for (let less = 0; less <= 50; less++) {
      expect(keys[less]).toBe(tailHashes("seed", text.slice(0, text.length - less), 0)[0]);
    }
    expect(new Set(keys).size).toBe(51);
  });

  test("a bracket that the editor closed does not make another place", () => {
    expect([sameSuffix("\nx", ")\nx"), sameSuffix("\nx", '")\nx'), sameSuffix("\nx", "a\nx")]).toEqual([
      true,
      true,
      false,
    ]);
  });
});

describe("the cursor after a change", () => {
  const at = (line: number, character: number) => ({ line, character });
  test.each([
    ["a letter", at(2, 4), at(2, 4), "x", at(2, 5)],
    ["a deletion", at(2, 4), at(2, 6), "", at(2, 4)],
    ["a pair", at(2, 4), at(2, 4), "()", at(2, 5)],
    ["a new line", at(2, 4), at(2, 4), "\n    ", at(3, 4)],
    ["a new line between brackets", at(2, 4), at(2, 4), "\n    \n", at(3, 4)],
    ["an accepted block", at(2, 4), at(2, 4), "a\r\n  b", at(3, 3)],
  ])("%s", (_, start, end, text, expected) => {
    expect(caretAfter(start, end, text, at(2, 4))).toEqual(expected);
  });

  test("is not known of changes elsewhere, nor of long ones", () => {
    expect(caretAfter(at(20, 0), at(20, 0), "x", at(2, 4))).toBeUndefined();
    expect(caretAfter(at(2, 4), at(2, 4), "x".repeat(401), at(2, 4))).toBeUndefined();
  });
});

describe("permission", () => {
  const fine: Circumstances = {
    explicit: false,
    trigger: "automatic",
    languages: { "*": true, scminput: false },
    language: "python",
    snoozed: "",
    path: "a.py",
    unready: "",
  };
  test.each([
    [{}, undefined],
    [{ trigger: "off" as const }, "switched off"],
    [{ trigger: "off" as const, explicit: true }, "switched off"],
    [{ trigger: "manual" as const }, "waits for its key"],
    [{ trigger: "manual" as const, explicit: true }, undefined],
    [{ language: "scminput" }, "off for scminput"],
    [{ snoozed: "for 4 minutes more" }, "snoozed for 4 minutes more"],
    [{ path: "app/.env.local" }, "secrets"],
    [{ path: "app/.env.local", explicit: true }, undefined],
    [{ path: ".kube/config" }, "secrets"],
    [{ path: "keyboard.ts" }, undefined],
    [{ unready: "nobody there" }, "nobody there"],
    [{ unready: "nobody there", explicit: true }, "nobody there"],
  ])("%j: %s", (more, expected) => {
    const why = refusal({ ...fine, ...more });
    if (expected === undefined) expect(why).toBeUndefined();
    else expect(why).toContain(expected);
  });

  test("a language's own word comes before that of all", () => {
    expect([isOn({}, "go"), isOn({ "*": false }, "go"), isOn({ "*": false, go: true }, "go")]).toEqual([
      true,
      false,
      true,
    ]);
  });
});

describe("with time", () => {
  beforeEach(() => vi.useFakeTimers());
  afterEach(() => vi.useRealTimers());

  test("a snooze ends by itself, and tells", () => {
    const snooze = new SnoozeState();
    let told = 0;
    const listening = snooze.onChange(() => told++);
    snooze.snooze(5);
    expect(snooze.left).toBe("for 5 minutes more");
    vi.advanceTimersByTime(4 * 60_000);
    expect(snooze.left).toBe("for a minute more");
    vi.advanceTimersByTime(60_000);
    expect([snooze.snoozedUntil, snooze.left, told]).toEqual([undefined, "", 2]);
    snooze.snooze(Number.POSITIVE_INFINITY);
    vi.advanceTimersByTime(48 * 3_600_000);
    expect(snooze.left).toBe("until the editor starts again");
    listening.dispose();
    snooze.wake();
    expect([snooze.snoozedUntil, told]).toEqual([undefined, 3]);
    snooze.dispose();
  });

  test("focus is told once a second at most, of walks of more than 32 lines, in lines from 1", () => {
    const said: string[] = [];
    const focus = new Focus((_, path, line) => said.push(`${path}:${line}`), Date.now);
    focus.at("w", "a.py", 0);
    focus.at("w", "a.py", 10);
    focus.at("w", "a.py", 40);
    focus.at("w", "b.py", 1);
    expect(said).toEqual(["a.py:1"]);
    vi.advanceTimersByTime(1_000);
    expect(said).toEqual(["a.py:1", "b.py:2"]);
    vi.advanceTimersByTime(5_000);
    focus.at("w", "b.py", 33);
    focus.at("w", "b.py", 34);
    expect(said).toEqual(["a.py:1", "b.py:2", "b.py:35"]);
    focus.forget();
    vi.advanceTimersByTime(5_000);
    focus.at("w", "b.py", 34);
    expect(said).toHaveLength(4);
    focus.at("w", "c.py", 1);
    focus.dispose();
    vi.advanceTimersByTime(5_000);
    expect(said).toHaveLength(4);
  });
});
