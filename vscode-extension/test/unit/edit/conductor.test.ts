import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { Stream } from "../../../src/api/gateway";
import { streamOf } from "../fakeGateway";
import { BOTH, bench, DONE, FILE, lines, NEW, slowly, soon } from "./bench";

describe("an edit", () => {
  it("streams the new lines in, shows both, and one undo after accepting brings back the text", async () => {
    const { edit, editor, views, timeline, requests, met } = bench([lines(NEW)], undefined, "\n", {
      usage: { prompt: 100, cached: 80, completion: 12 },
      headers: { "x-aicockpit-context": "w 400", "x-aicockpit-route": "e1" },
    });
    await edit.ask("make it shorter");
    expect(editor.text).toBe(BOTH);
    expect(edit.state.phase).toBe("reviewing");
    expect(views.at(-1)?.old).toEqual([{ first: 3, last: 4 }]);
    expect(views.at(-1)?.new).toEqual([{ first: 5, last: 5 }]);
    await edit.decide("accept");
    expect(editor.text).toBe(DONE);
    expect(edit.state.outcome).toBe("accepted");
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
    editor.redo();
    expect(editor.text).toBe(DONE);
    expect(requests[0]).toMatchObject({ temperature: 0, place: { workspace: "w", path: "a.py" }, model: "m" });
    expect(requests[0]?.slot).toMatch(/^edit-[0-9a-f]{8}$/);
    expect(timeline.last()).toMatchObject({
      feature: "edit",
      what: "a.py:3",
      outcome: "accepted",
      requestId: "req-1",
      context: "w 400",
      route: "e1",
      usage: { cached: 80 },
    });
    expect(met).toEqual([undefined]);
  });

  it("leaves the text as it was when all is rejected, and undo finds nothing else", async () => {
    const { edit, editor } = bench([lines(NEW)]);
    editor.type(0, 8, "b");
    await edit.ask("shorter");
    await edit.decide("reject");
    expect(editor.text).toBe(["import ab", ...FILE.slice(1)].join("\n"));
    expect(edit.state.outcome).toBe("rejected");
    editor.undo();
    expect(editor.text).toBe(["import ab", ...FILE.slice(1)].join("\n"));
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
  });

  it("never shows as old what the answer has not come to", async () => {
    const { edit, views } = bench([slowly(lines(["def f(x):", "    # first", "    y = x", "    return y"]))]);
    await edit.ask("comment");
    expect(views.length).toBeGreaterThan(3);
    for (const view of views) expect(view.old).toEqual([]);
    expect(edit.state.rows.filter((row) => row.kind === "new").map((row) => row.text)).toEqual(["    # first"]);
  });

  it("takes blocks one by one", async () => {
    const { edit, editor } = bench([lines(["def f(z):", "    y = x", "    return z"])]);
    await edit.ask("rename");
    const [one, two] = edit.view.lenses.filter((lens) => lens.block !== undefined && lens.title.includes("Accept"));
    expect(edit.blockAtLine(2)).toBe(one?.block);
    await edit.decide("accept", one?.block);
    expect(edit.state.phase).toBe("reviewing");
    await edit.decide("reject", two?.block);
    expect(editor.text.split("\n").slice(2, 5)).toEqual(["def f(z):", "    y = x", "    return y"]);
    expect(edit.state.outcome).toBe("partly accepted");
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
  });

  it("keeps CRLF", async () => {
    const { edit, editor } = bench([lines(NEW)], undefined, "\r\n");
    await edit.ask("shorter");
    await edit.decide("accept");
    expect(editor.text).toBe(DONE.replaceAll("\n", "\r\n"));
  });

  it("edits the last line of a file without a last newline", async () => {
    const text = "a\nb\ndef f(x):\n    y = x\n    return y";
    const { edit, editor } = bench([lines(NEW)], text);
    await edit.ask("shorter");
    await edit.decide("accept");
    expect(editor.text).toBe("a\nb\ndef f(x):\n    return x + 1");
    editor.undo();
    expect(editor.text).toBe(text);
  });

  it("follows up on what is under review; refusing all brings back the first text", async () => {
    const { edit, editor, requests } = bench([lines(NEW), lines(["def f(x: int):", "    return x + 1"])]);
    await edit.ask("/simplify");
    await edit.ask("with types");
    expect(requests[1]?.messages).toHaveLength(4);
    expect(requests[1]?.messages.slice(0, 2)).toEqual(requests[0]?.messages);
    expect(String(requests[1]?.messages[3]?.content)).toContain("with types");
    expect(edit.state.rows.filter((row) => row.kind !== "old").map((row) => row.text)).toEqual([
      "def f(x: int):",
      "    return x + 1",
    ]);
    await edit.decide("reject");
    expect(editor.text).toBe(FILE.join("\n"));
  });
});

describe("stopping", () => {
  it("keeps what has come", async () => {
    const { edit, editor, timeline } = bench([slowly(lines(["def f(z):", "    # more", ...NEW, ...NEW]))]);
    const asked = edit.ask("rename");
    while (edit.state.reach.lines.length < 2) await soon(2);
    edit.stop();
    await asked;
    await soon(20);
    expect(edit.state.phase).toBe("reviewing");
    expect(timeline.last()?.outcome).toBe("stopped");
    await edit.decide("accept");
    expect(editor.text.split("\n").slice(2, 6)).toEqual(["def f(z):", "    # more", "    y = x", "    return y"]);
  });

  it("ends the edit when nothing has come, and the request at the server", async () => {
    let left = false;
    const answer = (signal: AbortSignal) => streamOf(["x"], { signal, delayMs: 1000, onEnd: () => (left = true) });
    const { edit, editor } = bench([answer]);
    const asked = edit.ask("rename");
    await soon(5);
    edit.stop();
    await asked;
    expect([left, edit.state.outcome, editor.text]).toEqual([true, "stopped", FILE.join("\n")]);
  });

  it("happens when the user types into the lines, whose typing stays", async () => {
    const { edit, editor, messages } = bench([slowly(lines(["def f(z):", ...NEW, ...NEW, ...NEW]))]);
    const asked = edit.ask("rename");
    while (!editor.text.includes("def f(z)")) await soon(2);
    const at = editor.text.split("\n").indexOf("    return y");
    editor.type(at, 12, "  # mine");
    await asked;
    expect(messages.map((message) => message.text)).toEqual(["Stopped: you changed the lines being edited."]);
    await edit.decide("reject");
    expect(editor.text).toBe(FILE.join("\n").replace("return y", "return y  # mine"));
  });

  it("does not happen when the user types elsewhere, and that is an undo step of its own", async () => {
    const { edit, editor } = bench([slowly(lines(NEW))]);
    const asked = edit.ask("shorter");
    await soon(15);
    editor.type(0, 8, "\nimport b");
    await asked;
    await edit.decide("accept");
    const mine = (text: string) => text.replace("import a", "import a\nimport b");
    expect(editor.text).toBe(mine(DONE));
    editor.undo();
    expect(editor.text).toBe(mine(FILE.join("\n")));
  });
});

describe("trouble", () => {
  it("keeps the instruction and offers another try", async () => {
    const refused = new Fault("refused", "Nobody listens at 127.0.0.1:8000.", "Start the server.");
    const { edit, editor, messages, met, timeline } = bench([refused, lines(NEW)]);
    await edit.ask("shorter");
    expect(edit.state).toMatchObject({ phase: "asking", instruction: "shorter", trouble: { kind: "refused" } });
    expect(messages).toEqual([
      { level: "error", text: `${refused.message} ${refused.fix}`, offers: ["setUp", "again", "change"] },
    ]);
    expect(met).toEqual([refused]);
    expect(timeline.last()).toMatchObject({ outcome: "failed", why: `${refused.message} ${refused.fix}` });
    await edit.again();
    await edit.decide("accept");
    expect(editor.text).toBe(DONE);
  });

  it("keeps what had come; another try begins from the start", async () => {
    const broken = () => streamOf(lines(["def f(z):"]), { error: new Error("connection lost") });
    const { edit, editor, requests } = bench([broken, lines(NEW)]);
    await edit.ask("shorter");
    expect(edit.state.phase).toBe("reviewing");
    expect(editor.text).toContain("def f(z):");
    await edit.again();
    expect(requests[1]?.messages).toEqual(requests[0]?.messages);
    expect(editor.text).toBe(BOTH);
  });

  it("asks for the key when it is wrong", async () => {
    const { edit, messages } = bench([new Fault("unauthorized", "The key is wrong.", "Enter it again.", 401)]);
    await edit.ask("shorter");
    expect(messages[0]?.offers).toEqual(["key", "again", "change"]);
  });

  it.each([
    [["I'm sorry, but I cannot see what you mean."], "The model answered in words: “I'm sorry"],
    [["\n"], "The model answered nothing."],
  ])("is told when the answer has no code: %j", async (answer, text) => {
    const { edit, messages, editor } = bench([answer]);
    await edit.ask("shorter");
    expect(messages[0]?.text).toContain(text);
    expect([edit.state.phase, editor.text]).toEqual(["asking", FILE.join("\n")]);
  });

  it("is told when the answer was cut off, and what it had not come to stays", async () => {
    const { edit, editor, messages } = bench([["def f(z):\n    y"]], undefined, "\n", { finish: "length" });
    await edit.ask("rename");
    expect(messages[0]?.text).toContain("cut off");
    await edit.decide("accept");
    expect(editor.text).toBe(FILE.join("\n").replace("f(x)", "f(z)"));
  });

  it("is told when thoughts used all the room; then there is more", async () => {
    const thinking = (): Stream => ({
      ...streamOf([]),
      async *[Symbol.asyncIterator]() {
        yield { text: "", reasoning: "hm", index: 0, finish: "length" };
      },
    });
    const { edit, messages, requests } = bench([thinking, lines(NEW)]);
    await edit.ask("shorter");
    expect(messages[0]?.text).toContain("before any code");
    await edit.again();
    expect(requests[0]?.maxTokens).toBeLessThan(1000);
    expect(requests[1]?.maxTokens).toBe(4096);
  });

  it("says when nothing is to be changed", async () => {
    const { edit, messages } = bench([lines(FILE.slice(2, 5))]);
    await edit.ask("shorter");
    expect(edit.state.outcome).toBe("unchanged");
    expect(messages[0]?.offers).toEqual(["change"]);
  });

  it("says that a document is read-only", async () => {
    const { edit, editor, messages } = bench([lines(NEW)]);
    editor.readOnly = true;
    await edit.ask("shorter");
    expect(messages[0]?.text).toContain("read-only");
    expect([edit.state.phase, editor.text]).toEqual(["done", FILE.join("\n")]);
  });
});
