import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import { ChatSession } from "../../../src/features/chat/session";
import { streamOf } from "../fakeGateway";
import { echo, lastEnding, lastTurn, MODEL, question, started, until } from "./made";

describe("conversations", () => {
  it("are listed, opened, renamed, found, deleted and brought back", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("about parsers"));
    await session.handle({ type: "newChat" });
    expect(made.of("state").at(-1)?.state.current.turns).toEqual([]);
    await session.handle(question("about lexers"));
    const [lexers, parsers] = made.of("conversations").at(-1)?.items ?? [];
    expect([lexers?.title, parsers?.title]).toEqual(["about lexers", "about parsers"]);
    await session.handle({ type: "openConversation", id: parsers?.id ?? "" });
    expect(made.of("state").at(-1)?.state.current.turns[0]?.answer).toBe("one two");
    await session.handle({ type: "renameConversation", id: parsers?.id ?? "", title: "Mine" });
    await session.handle({ type: "searchConversations", query: "lexers", requestNumber: 7 });
    expect(made.of("conversations").at(-1)).toMatchObject({ requestNumber: 7, items: [{ id: lexers?.id }] });
    await session.handle({ type: "deleteConversation", id: parsers?.id ?? "" });
    expect(made.of("state").at(-1)?.state.current.turns).toEqual([]);
    expect(made.of("conversations").at(-1)?.items).toHaveLength(1);
    await session.handle({ type: "restoreConversation", id: parsers?.id ?? "" });
    expect(
      made
        .of("conversations")
        .at(-1)
        ?.items.map(({ title }) => title),
    ).toContain("Mine");
    await session.handle({ type: "restoreConversation", id: "gone" });
    expect(made.of("notice").at(-1)?.text).toContain("cannot be brought back");
    await session.handle({ type: "openConversation", id: "gone" });
    expect(made.of("notice").at(-1)?.text).toContain("not there any more");
    await session.handle({ type: "exportConversation", id: lexers?.id ?? "" });
    expect(made.did).toContain("save about-lexers.md");
  });

  it("that are answered go on when another is looked at", async () => {
    const { made, session } = await started(async (_, signal) =>
      streamOf(["one ", "two ", "three"], { signal, delayMs: 20 }),
    );
    const asking = session.handle(question("slow"));
    await until(() => made.of("delta").length > 0);
    const slow = made.of("conversations").length;
    await session.handle({ type: "newChat" });
    const deltas = made.of("delta").length;
    await asking;
    expect(made.of("delta")).toHaveLength(deltas);
    expect(made.of("conversations").length).toBeGreaterThan(slow);
    const [head] = await made.store.heads();
    expect((await made.store.open(head?.id ?? ""))?.turns[0]?.answer).toBe("one two three");
  });

  it("that are deleted while they are answered stay deleted", async () => {
    const { made, session } = await started(async (_, signal) =>
      streamOf(["one ", "two ", "three"], { signal, delayMs: 20 }),
    );
    const asking = session.handle(question("slow"));
    await until(() => made.of("delta").length > 0);
    const [head] = await made.store.heads();
    await session.handle({ type: "deleteConversation", id: head?.id ?? "" });
    await asking;
    expect(await made.store.heads()).toEqual([]);
  });

  it("open again where they were left, with what was being typed", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("a"));
    await session.handle({ type: "draft", text: "half a quest" });
    const again = new ChatSession({ ...made, id: () => `again-${Math.random()}` });
    await again.handle({ type: "ready" });
    expect(made.of("state").at(-1)?.state).toMatchObject({
      draft: "half a quest",
      current: { turns: [{ question: "a" }] },
    });
  });

  it("that have nothing are not exported, and a new one is not made anew", async () => {
    const { made, session } = await started(echo());
    await session.handle({ type: "exportConversation", id: "gone" });
    await session.export();
    expect(made.of("notice").map(({ text }) => text)).toEqual([
      "There is nothing to export yet.",
      "There is nothing to export yet.",
    ]);
    await session.newChat();
    expect(made.of("state")).toHaveLength(1);
    expect(made.of("focus")).toHaveLength(1);
  });
});

describe("the page is told", () => {
  it("the models, and which one answers", async () => {
    const { made, session } = await started(echo());
    made.server.models = [
      MODEL,
      { id: "big", maxLength: undefined, role: "vision" },
      { id: "e", maxLength: 512, role: "embedding" },
    ];
    await session.refresh();
    expect(made.of("models").at(-1)).toEqual({
      type: "models",
      models: [
        { id: "m", maxLength: 8_192, vision: false },
        { id: "big", vision: true },
      ],
      model: "m",
    });
    await session.handle({ type: "chooseModel", id: "big" });
    expect(made.of("models").at(-1)?.model).toBe("big");
    await session.handle({ type: "chooseModel", id: "unknown" });
    await session.handle({ type: "chooseModel", id: "" });
    expect(made.of("models").at(-1)?.model).toBe("e");
    made.server.models = [MODEL];
    await session.refresh();
    expect(made.of("models").at(-1)?.model).toBe("m");
    expect(made.of("connection")).toHaveLength(2);
  });

  it("nothing of models where the server is away", async () => {
    const { made } = await started(echo(), { models: () => Promise.reject(new Fault("refused", "a", "b")) });
    expect(made.of("state")[0]?.state.models).toEqual([]);
    expect(made.mets).toHaveLength(1);
  });

  it("how many tokens would be sent", async () => {
    const { made, session } = await started(echo());
    const before = made.of("tokens").at(-1);
    expect(before?.limit).toBe(8_192);
    await session.handle({ type: "draft", text: "x".repeat(3_500) });
    expect((made.of("tokens").at(-1)?.prompt ?? 0) - (before?.prompt ?? 0)).toBe(1_000);
  });

  it("the folder's state", async () => {
    const folder = { name: "app", state: "warm" as const, why: "" };
    const { made, session } = await started(echo(), { folder: () => folder });
    session.tellFolder();
    expect(made.of("folder").at(-1)?.folder).toEqual(folder);
    expect(made.of("state")[0]?.state.folder).toEqual(folder);
  });

  it("what went wrong in an act", async () => {
    const { made, session } = await started(echo());
    made.acts.insert = () => Promise.reject(new Fault("forbidden", "It is read-only.", "Copy it."));
    await session.handle({ type: "insert", turn: "1", block: 0, code: "x", language: "" });
    expect(made.of("notice").at(-1)?.text).toBe("It is read-only. Copy it.");
    await session.handle({ type: "pageError", message: "oh" });
    expect(made.logged.at(-1)).toContain("oh");
  });
});

describe("code of an answer", () => {
  it("is applied, inserted, copied and run", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("a"));
    const place = { turn: lastTurn(made).id, block: 0, code: "$ make\nok", language: "sh" };
    await session.handle({ type: "apply", ...place });
    expect(made.of("applied").map(({ state }) => state)).toEqual(["working", "shown", "applied"]);
    await session.handle({ type: "apply", ...place, turn: "gone" });
    await session.handle({ type: "insert", ...place });
    await session.handle({ type: "runInTerminal", ...place });
    await session.handle({ type: "copy", text: "x" });
    await session.handle({ type: "openLink", href: "src/a.ts:3" });
    await session.handle({ type: "command", name: "panel" });
    expect(made.did).toEqual([
      "apply $ make\nok",
      "insert $ make\nok",
      "run make",
      "copy x",
      "open src/a.ts:3",
      "command panel",
    ]);
    made.acts.apply = () => Promise.reject(new Fault("forbidden", "It is read-only.", ""));
    await session.handle({ type: "apply", ...place });
    expect(made.of("applied").at(-1)).toMatchObject({ state: "failed", detail: "It is read-only." });
  });

  it("is accepted on the page: the diff of that block, no other", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("a"));
    made.acts.apply = async (_, __, hear, decided) => {
      hear("shown", "a.ts");
      hear((await decided) ? "applied" : "rejected", "a.ts");
    };
    const { id } = lastTurn(made);
    const applying = [0, 1].map((block) =>
      session.handle({ type: "apply", turn: id, block, code: "x", language: "ts" }),
    );
    await session.handle({ type: "decide", turn: id, block: 7, accepted: true });
    await session.handle({ type: "decide", turn: id, block: 1, accepted: false });
    await session.handle({ type: "decide", turn: id, block: 0, accepted: true });
    await Promise.all(applying);
    expect(made.of("applied").slice(-2)).toMatchObject([
      { block: 1, state: "rejected" },
      { block: 0, state: "applied" },
    ]);
  });
});

it("closing ends what runs and writes all", async () => {
  const { made, session } = await started(async (_, signal) =>
    streamOf(["one ", "two ", "three"], { signal, delayMs: 20 }),
  );
  const asking = session.handle(question("slow"));
  await until(() => made.of("delta").length > 0);
  await session.close();
  await asking;
  expect(lastEnding(made)).toMatchObject({ stopped: true });
  expect(made.files.texts.size).toBe(1);
});
