import { describe, expect, test, vi } from "vitest";
import { Fault } from "../../../src/api/fault";
import { preambleOf } from "../../../src/features/completion/spot";
import { Desk, later, settled, Tap } from "./desk";

const BODY = "def f(items):\n    █\n\nprint(f([]))\n";
const never = new AbortController().signal;

describe("sending", () => {
  test("the first request leaves at once, without waiting for anything", async () => {
    const desk = new Desk(() => ({ texts: ["return 1"] })).open(BODY);
    const asked = desk.session.suggest(desk.ask(), never);
    expect(desk.calls).toHaveLength(1);
    expect((await asked).map((one) => one.text)).toEqual(["return 1"]);
    expect(desk.calls[0]?.request).toMatchObject({
      model: "m",
      slot: "completion-test",
      temperature: 0,
      maxTokens: 96,
    });
    expect(desk.calls[0]?.request.prefix).toBe("def f(items):\n    ");
    expect(desk.calls[0]?.request.suffix).toBe("\n\nprint(f([]))\n");
  });

  test("a newer keystroke that disagrees ends the older request first, in the same slot", async () => {
    const desk = new Desk((_, index) => (index === 0 ? new Tap() : { texts: ["eld"] })).open(BODY);
    const older = desk.shown();
    await settled();
    const newer = desk.type("yie").shown();
    expect(desk.calls.map((call) => call.othersOpen)).toEqual([0, 0]);
    expect(desk.calls[0]?.signal.aborted).toBe(true);
    expect(desk.calls[1]?.request.slot).toBe(desk.calls[0]?.request.slot);
    expect(await newer).toEqual(["eld"]);
    expect(await older).toEqual([]);
    expect(desk.outcomes()).toEqual(["superseded", "shown"]);
    expect(desk.timeline.all()[0]?.characters).toBe(desk.text.length);
  });

  test("a request that leaves with the keystroke serves the editor when it asks", async () => {
    const tap = new Tap();
    const desk = new Desk(() => tap).open(BODY);
    desk.session.ahead(desk.ask());
    await tap.say("return ");
    const asked = desk.shown();
    await tap.say("items");
    await tap.end();
    expect(await asked).toEqual(["return items"]);
    expect(desk.calls).toHaveLength(1);
    expect(desk.outcomes()).toEqual(["shown"]);
  });

  test("one that was ready before the editor asked is shown from memory", async () => {
    const desk = new Desk(() => ({ texts: ["return 1"] })).open(BODY);
    desk.session.ahead(desk.ask());
    await later(50);
    expect(desk.outcomes()).toEqual(["unused"]);
    expect(await desk.shown()).toEqual(["return 1"]);
    expect(desk.outcomes()).toEqual(["shown"]);
    expect(desk.calls).toHaveLength(1);
  });

  test("what the editor gave up is ended when no keystroke claims it", async () => {
    const desk = new Desk(() => new Tap()).open(BODY);
    const gone = new AbortController();
    const asked = desk.shown({}, gone.signal);
    await settled();
    gone.abort();
    expect(await asked).toEqual([]);
    expect(desk.calls[0]?.signal.aborted).toBe(false);
    await vi.waitFor(() => expect(desk.calls[0]?.signal.aborted).toBe(true));
    expect(desk.outcomes()).toEqual(["cancelled"]);
  });

  test("a cursor that moves away ends it at once; its own place does not", async () => {
    const desk = new Desk(() => new Tap()).open(BODY);
    const asked = desk.shown();
    desk.session.moved("file:///a.py", 1, 4);
    expect(desk.calls[0]?.signal.aborted).toBe(false);
    desk.session.moved("file:///a.py", 0, 2);
    expect(desk.calls[0]?.signal.aborted).toBe(true);
    expect(await asked).toEqual([]);
  });

  test("a single line is stopped by the engine itself", async () => {
    const desk = new Desk(() => ({ texts: ["items"] })).open("x = █ + 1\n");
    await desk.shown();
    expect(desk.calls[0]?.request).toMatchObject({ stop: ["\n"], maxTokens: 64 });
  });

  test("a stream is left as soon as a stop rule is sure", async () => {
    const tap = new Tap();
    const desk = new Desk(() => tap).open("def f():\n    if x:\n        █\n");
    const asked = desk.shown();
    await tap.say("return 1", "\n", "def g", "():", "\n    pass");
    expect(await asked).toEqual(["return 1"]);
    expect(tap.read).toBe(3);
  });
});

describe("an open request", () => {
  test("is kept while what is typed agrees with its answer", async () => {
    const tap = new Tap();
    const desk = new Desk(() => tap).open(BODY);
    const older = desk.shown();
    await tap.say("return ");
    const newer = desk.type("re").shown();
    await tap.say("items");
    await tap.end();
    expect(await newer).toEqual(["turn items"]);
    expect(await older).toEqual([]);
    expect(desk.calls).toHaveLength(1);
  });

  test("is kept for a character beyond its answer, and replaced when it then says something else", async () => {
    const tap = new Tap();
    const desk = new Desk((_, index) => (index === 0 ? tap : { texts: ["ield"] })).open(BODY);
    void desk.shown();
    const newer = desk.type("y").shown();
    await settled();
    expect(desk.calls).toHaveLength(1);
    await tap.say("value");
    expect(await newer).toEqual(["ield"]);
    expect(desk.calls).toHaveLength(2);
    expect(desk.calls[0]?.signal.aborted).toBe(true);
  });

  test("is replaced at once by two characters beyond its answer", async () => {
    const desk = new Desk((_, index) => (index === 0 ? new Tap() : { texts: ["eld"] })).open(BODY);
    void desk.shown();
    await settled();
    expect(await desk.type("yi").shown()).toEqual(["eld"]);
    expect(desk.calls[0]?.signal.aborted).toBe(true);
  });

  test("is kept when the editor closes a bracket by itself", async () => {
    const tap = new Tap();
    const desk = new Desk(() => tap).open(BODY);
    void desk.shown();
    await tap.say("print(");
    const newer = desk.type("print(", ")").shown();
    await tap.say("items)");
    await tap.end();
    expect(await newer).toEqual(["items"]);
    expect(desk.calls).toHaveLength(1);
  });
});

describe("memory", () => {
  test("typing what is shown asks for nothing, and the trace says so", async () => {
    const desk = new Desk(() => ({ texts: ["return items"] })).open(BODY);
    await desk.shown();
    for (const char of "return") expect(await desk.type(char).shown()).toHaveLength(1);
    expect(await desk.shown()).toEqual([" items"]);
    expect(desk.calls).toHaveLength(1);
    expect(desk.outcomes()).toEqual(["typed through"]);
  });

  test("taking back what was typed, or a part of what was accepted, asks for nothing", async () => {
    const desk = new Desk((_, index) => ({ texts: [index === 0 ? "return items" : ""] })).open(BODY);
    const [suggestion] = await desk.session.suggest(desk.ask(), never);
    if (suggestion === undefined) throw new Error("nothing was shown");
    desk.type("ret");
    expect(await desk.backspace(2).shown()).toEqual(["eturn items"]);
    desk.type("eturn items");
    desk.session.accepted(suggestion.trace);
    expect(desk.outcomes()).toEqual(["accepted"]);
    await desk.shown();
    expect(desk.calls).toHaveLength(2);
    expect(await desk.backspace(5).shown()).toEqual(["items"]);
    expect(desk.calls).toHaveLength(2);
    expect(desk.outcomes()).toEqual(["accepted", "nothing"]);
  });

  test("what is shown stays while it agrees, even when another answer is known for the place", async () => {
    const desk = new Desk((_, index) => ({ texts: [index === 0 ? "turn 0" : "return items"] }));
    desk.open("def f(items):\n    re█\n");
    await desk.shown();
    expect(await desk.backspace(2).shown()).toEqual(["return items"]);
    expect(await desk.type("re").shown()).toEqual(["turn items"]);
    expect(desk.calls).toHaveLength(2);
  });

  test("something else typed is another request, and the trace of the first says ignored", async () => {
    const desk = new Desk((_, index) => ({ texts: [index === 0 ? "return 1" : "ass"] })).open(BODY);
    await desk.shown();
    expect(await desk.type("p").shown()).toEqual(["ass"]);
    expect(desk.outcomes()).toEqual(["ignored", "shown"]);
  });

  test("nothing is remembered as well: the same place is not asked for twice", async () => {
    const desk = new Desk(() => ({ texts: [""] })).open(BODY);
    expect(await desk.shown()).toEqual([]);
    expect(await desk.shown()).toEqual([]);
    expect(desk.calls).toHaveLength(1);
    expect(desk.outcomes()).toEqual(["nothing"]);
    expect(desk.timeline.last()?.why).toBe("the model had nothing to add");
  });

  test("another text behind the cursor is another place", async () => {
    const desk = new Desk(() => ({ texts: ["return 1"] })).open(BODY);
    await desk.shown();
    desk.text = desk.text.replace("print", "assert");
    await desk.shown();
    expect(desk.calls).toHaveLength(2);
  });

  test("a reset forgets", async () => {
    const desk = new Desk(() => ({ texts: ["return 1"] })).open(BODY);
    await desk.shown();
    desk.session.reset();
    await desk.shown();
    expect(desk.calls).toHaveLength(2);
  });
});

describe("a long answer", () => {
  const whole = "for x in items:\n        a(x)\n        b(x)\n        c(x)";

  test("is shown as far as it has come, and whole when it is there", async () => {
    const tap = new Tap();
    const desk = new Desk(() => tap).open(BODY);
    const asked = desk.shown();
    await tap.say("for x in items:\n", "        a(x)\n", "        b(");
    expect(await asked).toEqual(["for x in items:\n        a(x)"]);
    expect(desk.more).toHaveLength(0);
    await tap.say("x)\n", "        c(x)");
    await tap.end();
    expect(desk.more).toHaveLength(1);
    expect(await desk.shown()).toEqual([whole]);
    expect(desk.calls).toHaveLength(1);
    expect(desk.outcomes()).toEqual(["shown"]);
  });

  test("is typed into while it comes", async () => {
    const tap = new Tap();
    const desk = new Desk(() => tap).open(BODY);
    const asked = desk.shown();
    await tap.say("for x in items:\n", "        a(x)\n");
    await asked;
    desk.type("for");
    desk.session.ahead(desk.ask());
    expect(await desk.shown()).toEqual([" x in items:\n        a(x)"]);
    await tap.say("        b(x)\n        c(x)");
    await tap.end();
    expect(await desk.shown()).toEqual([whole.slice(3)]);
    expect(desk.calls).toHaveLength(1);
  });

  test("ends when something else is typed", async () => {
    const tap = new Tap();
    const desk = new Desk((_, index) => (index === 0 ? tap : { texts: [" = 1"] })).open(BODY);
    const asked = desk.shown();
    await tap.say("for x in items:\n", "        a(x)\n");
    await asked;
    expect(await desk.type("y").shown()).toEqual([" = 1"]);
    expect(desk.calls[0]?.signal.aborted).toBe(true);
    expect(desk.outcomes()).toEqual(["ignored", "shown"]);
  });

  test("that was known already is not waited for", async () => {
    const tap = new Tap();
    const desk = new Desk((_, index) => (index === 0 ? { texts: ["return 1"] } : tap)).open(BODY);
    await desk.shown();
    desk.session.ahead(desk.type("x").ask());
    expect(desk.calls).toHaveLength(2);
    desk.session.ahead(desk.backspace().ask());
    expect(desk.calls[1]?.signal.aborted).toBe(true);
    expect(desk.outcomes()).toEqual(["ignored", "superseded"]);
  });
});

describe("the suggest list", () => {
  const selected = { text: "print", start: 4, end: 6 };

  test("a completion goes on behind the selected item", async () => {
    const desk = new Desk(() => ({ texts: ["(items)"] })).open("def f(items):\n    pr█\n");
    const [one] = await desk.session.suggest(desk.ask({ selected }), never);
    expect(one).toMatchObject({ text: "print(items)", from: 4, to: 6 });
    expect(desk.calls[0]?.request.prefix).toBe("def f(items):\n    print");
  });

  test("what is known already serves if it begins with the item", async () => {
    const desk = new Desk(() => ({ texts: ["print(items)"] })).open("def f(items):\n    █\n");
    await desk.shown();
    expect(await desk.type("pr").shown({ selected })).toEqual(["print(items)"]);
    expect(desk.calls).toHaveLength(1);
  });

  test("an item that does not begin as typed: nothing", async () => {
    const desk = new Desk(() => ({ texts: ["x"] })).open("def f(items):\n    pt█\n");
    expect(await desk.shown({ selected })).toEqual([]);
    expect(desk.calls).toHaveLength(0);
    expect(desk.timeline.last()?.why).toContain("suggest list");
  });
});

describe("asked by key", () => {
  test("several candidates, the likeliest first, none twice", async () => {
    const many = {
      requestId: "r2",
      headers: {},
      async *[Symbol.asyncIterator]() {
        yield { text: "return 1", index: 0, finish: "stop" };
        yield { text: "return len(", index: 1 };
        yield { text: "items)", index: 1, finish: "stop" };
      },
    };
    const desk = new Desk((request) => (request.candidates === undefined ? { texts: ["return 1"] } : many)).open(BODY);
    expect(await desk.shown({ explicit: true })).toEqual(["return 1", "return len(items)"]);
    const more = desk.calls.find((call) => call.request.candidates !== undefined)?.request;
    expect(more).toMatchObject({ candidates: 2, temperature: 0.6, slot: "completion-test-more" });
    expect(await desk.type("return ").shown()).toEqual(["1", "len(items)"]);
    expect(desk.calls).toHaveLength(2);
  });

  test("the first is shown even where the others fail", async () => {
    const desk = new Desk((request) =>
      request.candidates === undefined ? { texts: ["return 1"] } : new Fault("server", "No.", "Look."),
    ).open(BODY);
    expect(await desk.shown({ explicit: true })).toEqual(["return 1"]);
  });
});

describe("a notebook", () => {
  test("the cells above belong to what is sent, and typing through still works", async () => {
    const desk = new Desk(() => ({ texts: ["plot(data)"] })).open("█");
    const preamble = preambleOf(["x".repeat(9_000), "import os\r\n", "data = load()"]);
    await desk.shown({ preamble });
    expect(desk.calls[0]?.request.prefix).toBe("import os\n\ndata = load()\n\n");
    expect(await desk.type("plot").shown({ preamble })).toEqual(["(data)"]);
  });
});

describe("what goes wrong", () => {
  test("a fault is told to the connection, and the trace says what to do", async () => {
    const fault = new Fault("refused", "Nobody listens there.", "Start the server.");
    const desk = new Desk(() => fault).open(BODY);
    expect(await desk.shown()).toEqual([]);
    expect(desk.met).toEqual([fault]);
    expect(desk.timeline.last()).toMatchObject({ outcome: "failed", why: "Nobody listens there. Start the server." });
  });

  test("a busy server is left alone for as long as it says, but not when asked by key", async () => {
    const busy = new Fault("busy", "Too many.", "Wait.", 429, "overloaded", 30);
    const desk = new Desk((_, index) => (index === 0 ? busy : { texts: ["return 1"] }), { candidates: 1 }).open(BODY);
    await desk.shown();
    expect(await desk.type("r").shown()).toEqual([]);
    desk.session.ahead(desk.type("e").ask());
    expect(desk.calls).toHaveLength(1);
    expect(desk.timeline.last()?.why).toContain("busy: asks again in 30 s");
    expect(await desk.backspace(2).shown({ explicit: true })).toEqual(["return 1"]);
  });

  test("superseded by the server is no failure", async () => {
    const desk = new Desk(() => new Fault("superseded", "Newer.", "", 499, "superseded")).open(BODY);
    expect(await desk.shown()).toEqual([]);
    expect(desk.outcomes()).toEqual(["superseded"]);
    expect(desk.met).toEqual([]);
  });

  test("a stream that breaks shows nothing and is not remembered", async () => {
    const error = new Fault("protocol", "It ended.", "Try again.");
    const desk = new Desk((_, index) => (index === 0 ? { texts: ["ret"], error } : { texts: ["return 1"] })).open(BODY);
    expect(await desk.shown()).toEqual([]);
    expect(await desk.shown()).toEqual(["return 1"]);
  });

  test("the same refusal again makes no new trace", () => {
    const desk = new Desk(() => ({ texts: [] })).open(BODY);
    desk.session.refuse(desk.ask(), "offline");
    desk.session.refuse(desk.ask(), "offline");
    desk.session.refuse(desk.ask(), "snoozed");
    expect(desk.outcomes()).toEqual(["nothing", "nothing"]);
  });

  test("a trace has its times in order and the server's words", async () => {
    const headers = { "x-aicockpit-context": "2048 tokens", "x-aicockpit-route": "engine-0" };
    const usage = { prompt: 100, cached: 96, completion: 3 };
    const desk = new Desk(() => ({ texts: ["return", " 1"], headers, usage, delayMs: 5 })).open(BODY);
    await desk.shown();
    const trace = desk.timeline.last();
    expect(trace).toMatchObject({
      context: "2048 tokens",
      route: "engine-0",
      usage,
      outcome: "shown",
      requestId: "req-1",
    });
    const times = [trace?.sentMs, trace?.headersMs, trace?.firstTokenMs, trace?.lastTokenMs, trace?.shownMs];
    expect(times.every((time) => time !== undefined)).toBe(true);
    expect([...times].sort((a, b) => (a ?? 0) - (b ?? 0))).toEqual(times);
  });
});
