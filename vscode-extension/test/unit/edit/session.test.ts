import { describe, expect, it } from "vitest";
import { blocksOf, withoutNew, withoutOld } from "../../../src/features/edit/diff";
import { type EditState, type Event, next, startEdit } from "../../../src/features/edit/session";
import { viewOf, wholeLines } from "../../../src/features/edit/view";
import { mutated, randomLines, randomness } from "./random";

const TEXT = ["a", "b", "c", "d", "e"];
const stateAfter = (...events: Event[]): EditState => events.reduce(next, startEdit(TEXT));
const ASK: Event = { type: "ask", instruction: "do it" };
const ended = (lines: readonly string[]): Event => ({ type: "ended", lines, cut: false });
const TROUBLE = { message: "It broke.", fix: "Try again." };

describe("an edit's state", () => {
  it("goes from asking to streaming to reviewing to done", () => {
    const phases = [stateAfter(), stateAfter(ASK), stateAfter(ASK, ended(["a", "B", "c", "d", "e"]))].map(
      (state) => state.phase,
    );
    expect(phases).toEqual(["asking", "streaming", "reviewing"]);
    expect(stateAfter(ASK, ended(["a", "B"]), { type: "accept" })).toMatchObject({
      phase: "done",
      outcome: "accepted",
    });
  });

  it("is the same object after an event that makes no sense then", () => {
    const nonsense: [EditState, Event][] = [
      [stateAfter(), { type: "accept" }],
      [stateAfter(), { type: "stop" }],
      [stateAfter(), ended(["x"])],
      [stateAfter(), { type: "arrived", lines: ["x"] }],
      [stateAfter(), { type: "again" }],
      [stateAfter(ASK), ASK],
      [stateAfter(ASK), { type: "accept" }],
      [stateAfter(ASK), { type: "reject", block: 1 }],
      [stateAfter(ASK, ended(["x"])), { type: "accept", block: 77 }],
      [stateAfter(ASK, { type: "closed" }), { type: "failed", trouble: TROUBLE }],
    ];
    for (const [state, event] of nonsense) expect(next(state, event)).toBe(state);
  });

  it("stops with what has come, and ends when nothing has", () => {
    const partial = stateAfter(ASK, { type: "arrived", lines: ["A"] }, { type: "stop", notice: "n" });
    expect(partial).toMatchObject({ phase: "reviewing", notice: "n", turns: [{ unfinished: true }] });
    expect(withoutOld(partial.rows)).toEqual(["A", ...TEXT]);
    expect(stateAfter(ASK, { type: "stop" })).toMatchObject({ phase: "done", outcome: "stopped" });
  });

  it("keeps the instruction through an error, asked again or anew", () => {
    const failed = stateAfter(ASK, { type: "failed", trouble: TROUBLE });
    expect(failed).toMatchObject({ phase: "asking", instruction: "do it", trouble: TROUBLE });
    expect(next(failed, { type: "again" })).toMatchObject({ phase: "streaming", trouble: undefined });
    expect(next(failed, { type: "ask", instruction: "else" })).toMatchObject({
      phase: "streaming",
      instruction: "else",
    });
  });

  it("keeps what had come before an error, until it is asked again", () => {
    const failed = stateAfter(ASK, { type: "arrived", lines: ["A"] }, { type: "failed", trouble: TROUBLE });
    expect(failed.phase).toBe("reviewing");
    const again = next(failed, { type: "again" });
    expect(again).toMatchObject({ phase: "streaming", turns: [], floor: TEXT });
    expect(again.reach.base).toEqual(TEXT);
  });

  it("goes on from the reviewed text when asked again after a decision", () => {
    const failed = stateAfter(ASK, ended(["A", "b", "c", "D", "e"]), ASK, { type: "failed", trouble: TROUBLE });
    const first = blocksOf(failed.rows)[0]?.id;
    const again = next(next(failed, { type: "accept", block: first }), { type: "again" });
    expect(again.floor).toEqual(["A", "b", "c", "d", "e"]);
    expect(again.reach.base).toEqual(["A", "b", "c", "D", "e"]);
    expect(again.turns).toHaveLength(1);
  });

  it("follows up from the reviewed text: what was refused stays refused, refusing all gives the decided text", () => {
    const one = stateAfter(ASK, ended(["A", "b", "c", "D", "e"]));
    const [first, second] = blocksOf(one.rows);
    const decided = next(next(one, { type: "accept", block: first?.id }), { type: "reject", block: second?.id });
    expect(decided).toMatchObject({ phase: "done", outcome: "partly accepted" });
    const follow = next(next(one, { type: "accept", block: first?.id }), ASK);
    expect(follow.floor).toEqual(["A", "b", "c", "d", "e"]);
    expect(follow.reach.base).toEqual(["A", "b", "c", "D", "e"]);
    const two = next(follow, ended(["A", "b", "c", "DD", "e"]));
    expect(two.turns).toHaveLength(2);
    expect(withoutNew(next(two, { type: "reject" }).rows)).toEqual(["A", "b", "c", "d", "e"]);
  });

  it("keeps the tail of an answer that was cut off", () => {
    const cut = stateAfter(ASK, { type: "ended", lines: ["a", "B"], cut: true, notice: "cut" });
    expect(withoutOld(cut.rows)).toEqual(["a", "B", "b", "c", "d", "e"]);
    expect(cut.turns[0]).toMatchObject({ unfinished: true });
  });

  it("is refused as a whole while it streams", () => {
    const state = stateAfter(ASK, { type: "arrived", lines: ["A"] }, { type: "reject" });
    expect([state.phase, state.outcome, withoutOld(state.rows)]).toEqual(["done", "rejected", TEXT]);
  });

  it("always holds the floor and the candidate while it streams", () => {
    for (let seed = 0; seed < 100; seed++) {
      const random = randomness(seed);
      const text = randomLines(random, 15);
      const answer = mutated(text, random);
      let state = next(startEdit(text), ASK);
      for (let count = 1; count <= answer.length; count++) {
        state = next(state, { type: "arrived", lines: answer.slice(0, count) });
        expect(withoutNew(state.rows)).toEqual(text);
        expect(withoutOld(state.rows).slice(0, count)).toEqual(answer.slice(0, count));
      }
      state = next(state, ended(answer));
      expect(withoutOld(state.rows)).toEqual(answer);
      expect(state.phase).toBe(
        answer.join("\n") === text.join("\n") && answer.length === text.length ? "done" : "reviewing",
      );
    }
  });
});

describe("the view", () => {
  it("has lenses at the top and above each block while it is reviewed", () => {
    const state = stateAfter(ASK, ended(["A", "b", "c", "D", "e"]));
    const view = viewOf(state, 10, state.rows, false);
    expect(view).toMatchObject({
      part: { first: 10, last: 16 },
      old: [
        { first: 10, last: 10 },
        { first: 14, last: 14 },
      ],
      new: [
        { first: 11, last: 11 },
        { first: 15, last: 15 },
      ],
      pending: 2,
    });
    expect(view.lenses.map((lens) => [lens.line, lens.title.replace(/^\$\(.*?\) /, ""), lens.block])).toEqual([
      [10, "Accept All (Ctrl+Enter)", undefined],
      [10, "Reject All (Ctrl+Backspace)", undefined],
      [10, "Follow Up", undefined],
      [10, "Accept", 0],
      [10, "Reject", 0],
      [14, "Accept", 3],
      [14, "Reject", 3],
    ]);
    expect(viewOf(state, 10, state.rows, true).lenses[0]?.title).toContain("Cmd+Enter");
  });

  it("has a way to stop while it streams, and nothing at the end", () => {
    const streaming = stateAfter(ASK, { type: "arrived", lines: ["a"] });
    const { lenses } = viewOf(streaming, 3, streaming.rows, false);
    expect(lenses.map((lens) => [lens.title, lens.command])).toEqual([
      ["$(loading~spin) Editing…", ""],
      ["Stop (Escape)", "aicockpit.edit.stop"],
    ]);
    expect(viewOf(stateAfter(ASK), 3, [], false).lenses).toEqual(lenses);
    const done = next(streaming, { type: "reject" });
    expect(viewOf(done, 3, done.rows, false)).toMatchObject({ lenses: [], old: [], new: [], pending: 0 });
  });
});

describe("whole lines", () => {
  const at = (startLine: number, startCharacter: number, endLine: number, endCharacter: number) =>
    wholeLines({ startLine, startCharacter, endLine, endCharacter }, 10);

  it("are those the selection touches, or all", () => {
    expect(at(2, 3, 4, 1)).toEqual({ span: { first: 2, last: 4 }, whole: false });
    expect(at(2, 3, 4, 0)).toEqual({ span: { first: 2, last: 3 }, whole: false });
    expect(at(2, 3, 2, 5)).toEqual({ span: { first: 2, last: 2 }, whole: false });
    expect(at(2, 3, 2, 3)).toEqual({ span: { first: 0, last: 9 }, whole: true });
  });
});
