import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { decode, encode } from "../../../src/features/chat/decode";
import { filesIn } from "../../../src/features/chat/files";
import { ConversationStore, within } from "../../../src/features/chat/store";
import { block, kept, memoryFiles, turn } from "./made";

const FULL = kept("full-1", [
  turn("1", "why?", "because", {
    mentions: [{ id: "file:x", kind: "file", label: "x.ts", detail: "src/x.ts", tokens: 3, problem: "part" }],
    images: ["data:image/png;base64,AA"],
    reasoning: "hm",
    sources: [{ title: "t", href: "https://a.example" }],
    blocks: [{ ...block("x.ts", "let x"), note: "part", cut: true, sources: [{ title: "t", href: "h" }] }],
    dropped: true,
    ending: {
      usage: { prompt: 3, cached: undefined, completion: 1 },
      firstTokenMs: 1,
      totalMs: 2,
      context: "none",
      stopped: true,
      truncated: true,
      fault: { message: "m", fix: "f", command: "setKey" },
    },
  }),
]);

describe("a conversation as text", () => {
  it("comes back as it was", () => {
    const decoded = decode(encode(FULL));
    expect(decoded).toEqual({ kept: FULL });
  });

  it.each([
    "",
    "{",
    "null",
    "[]",
    '{"id":"a"}',
    '{"id":"../up","title":"t","turns":[]}',
    '{"id":"a","title":"t","turns":[{"id":"1"}]}',
    '{"id":"a","title":"t","turns":[7]}',
  ])("is damaged: %s", (text) => {
    expect(decode(text)).toEqual({ wrong: "damaged" });
  });

  it("drops parts that make no sense, and keeps the rest", () => {
    const text = JSON.stringify({
      id: "a",
      title: "t",
      turns: [
        {
          id: "1",
          question: "q",
          answer: "a",
          at: "late",
          mentions: [{ id: 3 }, { id: "x", kind: "tree", label: "l" }],
          images: "no",
          sources: [{}],
          blocks: [{ id: "b" }],
          ending: { usage: { prompt: "x" }, fault: { message: 1 } },
        },
      ],
    });
    const decoded = decode(text);
    expect(decoded).toMatchObject({
      kept: { at: 0, turns: [{ question: "q", mentions: [], images: [], blocks: [], ending: {} }] },
    });
  });

  it("of a later version is left alone", () => {
    expect(decode('{"version":99,"conversations":{}}')).toEqual({ wrong: "newer" });
  });
});

describe("the store", () => {
  it("keeps conversations, the newest first", async () => {
    const files = memoryFiles();
    const store = new ConversationStore(files);
    await store.save(kept("a", [turn("1", "q", "A")], { at: 1 }));
    await store.save(kept("b", [turn("1", "q", "B")], { at: 2 }));
    await store.save(kept("none", []));
    expect((await store.heads()).map(({ id }) => id)).toEqual(["b", "a"]);
    const again = new ConversationStore(files);
    expect((await again.heads()).map(({ id }) => id)).toEqual(["b", "a"]);
    expect((await again.open("a"))?.turns[0]?.answer).toBe("A");
    expect(await again.open("gone")).toBeUndefined();
  });

  it("sees what another window saved or removed", async () => {
    const files = memoryFiles();
    const [one, other] = [new ConversationStore(files), new ConversationStore(files)];
    await one.save(kept("a", [turn("1", "q", "A")]));
    expect(await other.heads()).toHaveLength(1);
    await one.delete("a");
    expect(await other.heads()).toHaveLength(0);
  });

  it("keeps what two windows ask in one conversation, and what one of them took away stays away", async () => {
    const files = memoryFiles();
    const [here, there] = [new ConversationStore(files), new ConversationStore(files)];
    const first = turn("1", "first", "a");
    await here.save(kept("a", [first]));
    expect(await there.open("a")).toMatchObject({ turns: [{ id: "1" }] });
    await there.heads();
    await here.save(kept("a", [first, turn("2", "here", "b", { at: 2_000 })]));
    await there.save(kept("a", [first, turn("3", "there", "c", { at: 3_000 })]));
    await here.save(kept("a", [turn("4", "first, in other words", "d", { at: 4_000 })]));
    const asked = (await new ConversationStore(files).open("a"))?.turns.map(({ question }) => question);
    expect(asked).toEqual(["there", "first, in other words"]);
    await there.rename("a", "Both");
    await there.save(kept("a", [turn("3", "there", "c", { at: 3_000 })]));
    expect((await here.open("a"))?.turns).toHaveLength(2);
  });

  it("does not lose what is being written while it is listed", async () => {
    const store = new ConversationStore(memoryFiles());
    const saving = store.save(kept("a", [turn("1", "q", "A")]));
    expect(await store.heads()).toHaveLength(1);
    await saving;
    expect(await store.heads()).toHaveLength(1);
  });

  it("sets a damaged file aside, says so, and goes on", async () => {
    const files = memoryFiles();
    files.texts.set("bad.json", "{");
    files.texts.set("liar.json", encode(kept("other", [turn("1", "q", "A")])));
    files.texts.set("new.json", '{"version":9}');
    files.texts.set("notes.txt", "mine");
    const said: string[] = [];
    const store = new ConversationStore(files, (sentence) => said.push(sentence));
    await store.save(kept("good", [turn("1", "q", "A")]));
    expect((await store.heads()).map(({ id }) => id)).toEqual(["good"]);
    expect(said).toHaveLength(2);
    expect(said[0]).toContain("bad.damaged");
    expect([...files.texts.keys()].sort()).toEqual([
      "bad.damaged",
      "good.json",
      "liar.damaged",
      "new.json",
      "notes.txt",
    ]);
  });

  it("makes room for the newest, and never removes the one it saves", async () => {
    const store = new ConversationStore(memoryFiles(), () => {}, { count: 3, size: 1e6, deleted: 2 });
    for (let at = 1; at <= 5; at++) await store.save(kept(`c${at}`, [turn("1", "q", "A")], { at }));
    expect((await store.heads()).map(({ id }) => id)).toEqual(["c5", "c4", "c3"]);
    await store.save(kept("old", [turn("1", "q", "A")], { at: 0 }));
    expect((await store.heads()).map(({ id }) => id)).toEqual(["c5", "c4", "old"]);
  });

  it("deletes, and brings back", async () => {
    const store = new ConversationStore(memoryFiles(), () => {}, { count: 9, size: 1e6, deleted: 1 });
    for (const id of ["a", "b"]) {
      await store.save(kept(id, [turn("1", "q", id)]));
      expect(await store.delete(id)).toBe(true);
    }
    expect(await store.heads()).toEqual([]);
    expect(await store.restore("a")).toBeUndefined();
    expect((await store.restore("b"))?.id).toBe("b");
    expect((await store.heads()).map(({ id }) => id)).toEqual(["b"]);
    expect(await store.delete("gone")).toBe(false);
  });

  it("renames", async () => {
    const store = new ConversationStore(memoryFiles());
    await store.save(kept("a", [turn("1", "q", "A")]));
    expect((await store.rename("a", "  My   name "))?.title).toBe("My name");
    expect((await store.heads())[0]?.title).toBe("My name");
    expect(await store.rename("gone", "x")).toBeUndefined();
  });

  it("finds all words; those in the title first, the others with the place", async () => {
    const store = new ConversationStore(memoryFiles());
    await store.save(kept("a", [turn("1", "the parser is slow", "profile it")], { at: 3, title: "Speed" }));
    await store.save(kept("b", [turn("1", "x", "y")], { at: 2, title: "Parser" }));
    await store.save(kept("c", [turn("1", "x", "y")], { at: 1, title: "Other" }));
    const found = await store.search("parser", 9);
    expect(found.map(({ id }) => id)).toEqual(["b", "a"]);
    expect(found[1]?.title).toMatch(/^Speed · the parser is slow/);
    expect(await store.search("parser nowhere", 9)).toEqual([]);
    expect(await store.search(" ", 2)).toHaveLength(2);
    expect(await store.search("parser", 9, AbortSignal.abort())).toEqual([]);
  });

  it("goes on after a write that failed", async () => {
    const files = memoryFiles();
    const write = files.write;
    let full = true;
    const store = new ConversationStore({
      ...files,
      write: (name, text) => (full ? Promise.reject(new Error("disk full")) : write(name, text)),
    });
    await expect(store.save(kept("a", [turn("1", "q", "A")]))).rejects.toThrow("disk full");
    full = false;
    await store.save(kept("a", [turn("1", "q", "A")]));
    expect(await store.heads()).toHaveLength(1);
  });

  it("keeps what was said when a conversation is too large, and drops pictures and context first", () => {
    const large = kept("a", [
      turn("1", "q1", "A1", { images: ["x".repeat(5_000)], blocks: [block("a.ts", "y".repeat(5_000))] }),
      turn("2", "q2", "A2", { blocks: [block("b.ts", "z".repeat(1_000))] }),
    ]);
    const without = within(large, 8_000);
    expect(without.turns[0]).toMatchObject({ images: [], blocks: [{ text: "y".repeat(5_000) }] });
    const less = within(large, 3_000);
    expect(less.turns[0]).toMatchObject({ answer: "A1", blocks: [{ text: "", cut: true }] });
    expect(less.turns[1]?.blocks[0]?.text).toHaveLength(1_000);
    expect(within(large, 100).turns).toHaveLength(1);
    expect(within(large, 1e6)).toBe(large);
  });
});

describe("files in a folder", () => {
  let folder = "";
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "chats-"));
  });
  afterEach(() => rm(folder, { recursive: true }));

  it("are written whole, for this user only, and leave nothing behind", async () => {
    const files = filesIn(join(folder, "deep", "down"));
    expect(await files.list()).toEqual([]);
    expect(await files.read("a.json")).toBeUndefined();
    await files.write("a.json", "one");
    await files.write("a.json", "two");
    expect(await files.read("a.json")).toBe("two");
    expect(await readdir(join(folder, "deep", "down"))).toEqual(["a.json"]);
    expect((await stat(join(folder, "deep", "down", "a.json"))).mode & 0o077).toBe(0);
    await files.move("a.json", "b.json");
    await files.move("gone.json", "c.json");
    expect(await files.list()).toEqual(["b.json"]);
    await files.remove("b.json");
    await files.remove("b.json");
    expect(await files.list()).toEqual([]);
  });

  it("tell of what is no folder, and leave no half files", async () => {
    await writeFile(join(folder, "file"), "x");
    const files = filesIn(join(folder, "file"));
    await expect(files.write("a.json", "one")).rejects.toThrow();
    await expect(files.list()).rejects.toThrow();
    expect(await readFile(join(folder, "file"), "utf8")).toBe("x");
    await mkdir(join(folder, "taken.json"));
    await expect(filesIn(folder).write("taken.json", "one")).rejects.toThrow();
    expect((await readdir(folder)).sort()).toEqual(["file", "taken.json"]);
  });
});
