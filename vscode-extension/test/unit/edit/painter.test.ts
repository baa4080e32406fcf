import { describe, expect, it } from "vitest";
import { accept, blocksOf, compare, type Row, reject, textOf, withoutNew } from "../../../src/features/edit/diff";
import { Painter } from "../../../src/features/edit/painter";
import { FakeEditor } from "./fakeEditor";
import { mutated, randomLines, randomness } from "./random";

interface Bench {
  readonly painter: Painter;
  readonly editor: FakeEditor;
  /** What the painter noticed that was not its own. */
  readonly noticed: string[];
  rows: readonly Row[];
}

function bench(head: readonly string[], part: readonly string[], tail: readonly string[], eol = "\n"): Bench {
  const editor = new FakeEditor([...head, ...part, ...tail].join(eol), eol);
  const painter = new Painter(editor, head.length, part);
  const all: Bench = { painter, editor, noticed: [], rows: painter.shown };
  editor.listener = (event) => {
    const noticed = painter.noticed(event);
    if (noticed.kind !== "ours") all.noticed.push(noticed.kind);
    if (noticed.kind === "inside" || noticed.kind === "back") all.rows = noticed.rows;
  };
  return all;
}

const HEAD = ["h1", "h2"];
const TAIL = ["t1", "t2"];

describe("the painter", () => {
  it("makes all its changes one undo step, whatever the texts and the decisions", async () => {
    for (let seed = 0; seed < 150; seed++) {
      const random = randomness(seed);
      const part = randomLines(random, 12);
      if (part.length === 0) continue;
      const [head, tail] = seed % 3 === 0 ? [[], []] : [HEAD, TAIL];
      const eol = seed % 2 === 0 ? "\n" : "\r\n";
      const { painter, editor, noticed } = bench(head, part, tail, eol);
      const first = editor.text;
      let text: readonly string[] = part;
      let rows = painter.shown;
      for (let step = 0; step < 4; step++) {
        text = mutated(text, random);
        rows = compare(part, text);
        expect(await painter.show(rows, false)).toBe("applied");
      }
      for (const block of blocksOf(rows)) {
        rows = random() < 0.5 ? accept(rows, block.id) : reject(rows, block.id);
        if (random() < 0.5) await painter.show(rows, false);
      }
      expect(await painter.settle(rows)).toBe("applied");
      const lines = [...head, ...textOf(rows), ...tail];
      const last = (lines.length > 0 ? lines : [""]).join(eol);
      expect(editor.text).toBe(last);
      editor.undo();
      expect(editor.text).toBe(first);
      editor.redo();
      expect(editor.text).toBe(last);
      expect(noticed.filter((kind) => kind !== "back" && kind !== "outside")).toEqual([]);
    }
  });

  it("keeps hold of the lines and of the undo step while others type around them", async () => {
    for (let seed = 0; seed < 150; seed++) {
      const random = randomness(seed);
      const part = ["p", ...randomLines(random, 8)];
      const { painter, editor, noticed } = bench(HEAD, part, TAIL);
      const typed: string[] = [...HEAD];
      const below: string[] = [...TAIL];
      const rows = compare(part, ["q", ...mutated(part, random), "r"]);
      for (let step = 0; step < 4; step++) {
        await painter.show(step % 2 === 0 ? rows : compare(part, ["only"]), false);
        const count = editor.text.split("\n").length;
        if (random() < 0.5) {
          editor.type(0, 0, "above\n");
          typed.unshift("above");
        } else {
          editor.type(count - 1, (below.at(-1) ?? "").length, "\nbelow");
          below.push("below");
        }
        expect(painter.start).toBe(typed.length);
      }
      expect(noticed.every((kind) => kind === "outside")).toBe(true);
      await painter.settle(accept(rows));
      expect(editor.text).toBe([...typed, ...textOf(accept(rows)), ...below].join("\n"));
      editor.undo();
      expect(editor.text).toBe([...typed, ...part, ...below].join("\n"));
    }
  });

  it("brings back a review that undo steps lead through", async () => {
    const part = ["a", "b"];
    const { painter, editor, noticed } = bench(HEAD, part, TAIL);
    const rows = compare(part, ["a", "B"]);
    await painter.show(rows, false);
    editor.type(0, 0, "mine ");
    await painter.settle(accept(rows));
    expect(editor.text).toBe("mine h1\nh2\na\nB\nt1\nt2");
    editor.undo();
    expect([editor.text, painter.shown.map((row) => row.kind)]).toEqual([
      "mine h1\nh2\na\nb\nt1\nt2",
      ["kept", "kept"],
    ]);
    editor.undo();
    expect(painter.shown.map((row) => row.kind)).toEqual(["kept", "old", "new"]);
    expect(noticed.slice(1)).toEqual(["back", "back"]);
  });

  it("takes out what is undecided for the file, and the part at the end of a document too", async () => {
    const part = ["a", "b"];
    const { painter, editor } = bench(HEAD, part, []);
    const rows = compare(part, ["a", "c", "d"]);
    await painter.show(rows, false);
    expect(editor.save(painter.beforeSave(rows))).toBe("h1\nh2\na\nb");
    painter.saved();
    expect(textOf(painter.shown)).toEqual(withoutNew(rows));
    await painter.show(rows, false);
    expect(editor.text).toBe("h1\nh2\na\nb\nc\nd");
  });

  it("saves even while a change of its own is under way", async () => {
    const part = ["a", "b"];
    const { painter, editor, noticed } = bench(HEAD, part, TAIL);
    await painter.show(compare(part, ["a", "c"]), false);
    const next = compare(part, ["a", "c", "d"]);
    const shown = painter.show(next, false);
    expect(editor.save(painter.beforeSave(next))).toBe("h1\nh2\na\nb\nt1\nt2");
    expect(await shown).toBe("refused");
    painter.saved();
    expect(await painter.show(next, false)).toBe("applied");
    expect(noticed).toEqual([]);
  });

  it("tells when it is refused, hidden, closed or ignored, and shows nothing then", async () => {
    const part = ["a"];
    const { painter, editor } = bench(HEAD, part, TAIL);
    const rows = compare(part, ["b"]);
    const refused = painter.show(rows, false);
    editor.type(0, 0, "x");
    expect(await refused).toBe("refused");
    editor.visible = false;
    expect(await painter.show(rows, false)).toBe("hidden");
    editor.visible = true;
    editor.readOnly = true;
    expect(await painter.show(rows, false)).toBe("unchanged");
    expect(textOf(painter.shown)).toEqual(part);
    editor.readOnly = false;
    editor.closed = true;
    expect(await painter.show(rows, false)).toBe("closed");
    expect(painter.beforeSave(rows)).toEqual([]);
  });
});
