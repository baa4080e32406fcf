import { describe, expect, it } from "vitest";
import { streamOf } from "../fakeGateway";
import { BOTH, bench, DONE, FILE, lines, NEW, slowly, soon } from "./bench";

describe("the document of an edit", () => {
  it("may be out of sight: the lines come when it is seen again", async () => {
    const { edit, editor } = bench([lines(NEW)]);
    editor.visible = false;
    await edit.ask("shorter");
    expect(editor.text).toBe(FILE.join("\n"));
    editor.visible = true;
    edit.seen();
    await soon(10);
    expect(editor.text).toBe(BOTH);
  });

  it("may be closed: the request ends", async () => {
    let left = false;
    const answer = (signal: AbortSignal) => streamOf(lines(NEW), { signal, delayMs: 20, onEnd: () => (left = true) });
    const { edit, editor } = bench([answer]);
    const asked = edit.ask("shorter");
    await soon(5);
    editor.closed = true;
    edit.closed();
    await asked;
    expect([left, edit.state.outcome]).toEqual([true, "closed"]);
  });

  it("goes back by one undo while it is reviewed, and redo brings the review back", async () => {
    const { edit, editor } = bench([lines(NEW)]);
    await edit.ask("shorter");
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
    expect(edit.state.outcome).toBe("undone");
    editor.redo();
    expect(edit.state.phase).toBe("reviewing");
    await edit.decide("accept");
    expect(editor.text).toBe(DONE);
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
  });

  it("is one undo step even when somebody has moved the cursor, which ends the editor's own step", async () => {
    for (const saves of [false, true]) {
      const { edit, editor } = bench([lines(NEW)]);
      await edit.ask("shorter");
      editor.endStep();
      edit.moved();
      const decided = edit.decide("accept");
      expect(edit.settling).toBeDefined();
      if (saves) {
        editor.save(edit.saving("asked"));
        edit.saved();
      }
      await decided;
      await soon(10);
      expect([editor.text, edit.settling]).toEqual([DONE, undefined]);
      editor.undo();
      expect(editor.text).toBe(FILE.join("\n"));
    }
  });

  it("goes back by one undo while it streams, which ends the request", async () => {
    let left = false;
    const texts = lines(["def f(z):", ...NEW, ...NEW, ...NEW, ...NEW]);
    const answer = (signal: AbortSignal) => streamOf(texts, { signal, delayMs: 20, onEnd: () => (left = true) });
    const { edit, editor } = bench([answer]);
    const asked = edit.ask("shorter");
    while (!editor.text.includes("def f(z)")) await soon(2);
    editor.undo();
    await soon(5);
    expect(left).toBe(true);
    await asked;
    expect([edit.state.outcome, editor.text]).toEqual(["undone", FILE.join("\n")]);
  });

  it("is saved without what is to be decided, which comes back afterwards", async () => {
    const { edit, editor, messages } = bench([lines(NEW)]);
    await edit.ask("shorter");
    const saved = editor.save(edit.saving("asked"));
    edit.saved();
    expect(saved).toBe(FILE.join("\n"));
    await soon(10);
    expect(editor.text).toBe(BOTH);
    expect(editor.save(edit.saving("asked"))).toBe(FILE.join("\n"));
    edit.saved();
    await soon(10);
    expect(messages.map((message) => message.once)).toEqual(["saved asked", "saved asked"]);
    await edit.decide("accept");
    expect(editor.text).toBe(DONE);
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
  });

  it("is left alone between the saving and the saved, though more comes", async () => {
    const { edit, editor } = bench([slowly(lines(["def f(z):", ...NEW, ...NEW, ...NEW]))]);
    const asked = edit.ask("shorter");
    while (!editor.text.includes("def f(z)")) await soon(2);
    expect(editor.save(edit.saving("asked"))).toBe(FILE.join("\n"));
    await soon(30);
    expect(editor.text).toBe(FILE.join("\n"));
    edit.saved();
    await asked;
    expect(editor.text).toContain("def f(z)");
  });

  it("shows a decision that was taken while it was being saved", async () => {
    const { edit, editor } = bench([lines(NEW)]);
    await edit.ask("shorter");
    expect(editor.save(edit.saving("asked"))).toBe(FILE.join("\n"));
    await edit.decide("accept");
    edit.saved();
    await soon(10);
    expect([editor.text, edit.state.outcome]).toEqual([DONE, "accepted"]);
    editor.undo();
    expect(editor.text).toBe(FILE.join("\n"));
  });

  it("is saved as it is when it saves by itself, and that is said once", async () => {
    const { edit, messages } = bench([lines(NEW)]);
    await edit.ask("shorter");
    expect(edit.saving("by itself")).toEqual([]);
    expect(messages).toMatchObject([{ offers: ["acceptAll", "rejectAll"], once: "saved by itself" }]);
    await edit.decide("accept");
    expect(edit.saving("by itself")).toEqual([]);
    expect(messages).toHaveLength(1);
  });
});
