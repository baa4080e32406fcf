import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { View } from "../../../src/features/edit/view";

/** The editor, as far as the drawing of edits needs one. */
vi.mock("vscode", () => {
  const nothing = { dispose: () => {} };
  class EventEmitter {
    readonly #listeners = new Set<() => void>();
    readonly event = (listener: () => void) => {
      this.#listeners.add(listener);
      return nothing;
    };
    fire(): void {
      for (const listener of this.#listeners) listener();
    }
    dispose(): void {
      this.#listeners.clear();
    }
  }
  return {
    EventEmitter,
    ThemeColor: class {},
    OverviewRulerLane: { Full: 7 },
    DecorationRangeBehavior: { ClosedClosed: 1 },
    Uri: { parse: () => ({}) },
    commands: { executeCommand: async () => undefined },
    languages: { registerCodeLensProvider: () => nothing },
    window: {
      visibleTextEditors: [],
      activeTextEditor: undefined,
      onDidChangeVisibleTextEditors: () => nothing,
      onDidChangeActiveTextEditor: () => nothing,
      createTextEditorDecorationType: () => nothing,
    },
  };
});

const { EditViews } = await import("../../../src/ui/editView");
const HERE = { toString: () => "file:///a.ts" } as never;
const LENS = { line: 0, title: "Reject All", command: "aicockpit.edit.rejectAll" };

function view(phase: View["phase"]): View {
  const lenses = phase === "done" ? [] : [LENS];
  return { phase, part: undefined, old: [], new: [], lenses, pending: lenses.length };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it("tells the editor again of lenses that went, since it may have missed it while it lost the focus", () => {
  const views = new EditViews();
  let told = 0;
  views.onDidChangeCodeLenses(() => {
    told += 1;
  });
  views.show(HERE, view("reviewing"));
  expect(told).toBe(1);
  vi.advanceTimersByTime(1000);
  expect(told).toBe(1);
  views.show(HERE, view("done"));
  expect(told).toBe(2);
  vi.advanceTimersByTime(400);
  expect(told).toBe(2);
  vi.advanceTimersByTime(200);
  expect(told).toBe(3);
  views.show(HERE, view("reviewing"));
  views.show(HERE, undefined);
  views.dispose();
  vi.advanceTimersByTime(1000);
  expect(told).toBe(5);
});
