import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { ChatRequest } from "../../../src/api/gateway";
import { textOf } from "../../../src/features/chat/prompt";
import { streamOf } from "../fakeGateway";
import { echo, lastEnding, lastTurn, MODEL, question, started, until } from "./made";

describe("a question", () => {
  it("is answered piece by piece and kept", async () => {
    const seen: ChatRequest[] = [];
    const { made, session } = await started(echo(seen));
    await session.handle(question(" How? "));
    const turn = lastTurn(made);
    expect(turn).toMatchObject({ question: "How?", model: "m", answer: "" });
    expect(
      made
        .of("delta")
        .map(({ text }) => text)
        .join(""),
    ).toBe("one two");
    expect(made.of("delta")[0]).toMatchObject({ turn: turn.id, at: 0 });
    expect(lastEnding(made)).toMatchObject({ usage: { prompt: 50, cached: 40 }, context: "none; cold" });
    expect(seen[0]).toMatchObject({ model: "m", maxTokens: 1_000, temperature: 0.2 });
    expect(made.mets).toEqual([undefined]);
    expect(made.timeline.last("chat")).toMatchObject({ outcome: "shown", what: "How?" });
    const saved = await made.store.heads();
    expect(saved).toMatchObject([{ title: "How?", turns: 1 }]);
    expect((await made.store.open(saved[0]?.id ?? ""))?.turns[0]?.answer).toBe("one two");
  });

  it("after another begins with the same messages", async () => {
    const seen: ChatRequest[] = [];
    const { session } = await started(echo(seen), {}, { "a.ts": "let a;" });
    await session.handle(question("first @file a.ts"));
    await session.handle(question("second @file a.ts"));
    const [first, second] = seen.map(({ messages }) => messages);
    expect(JSON.stringify(second?.slice(0, first?.length))).toBe(JSON.stringify(first));
    expect(second).toHaveLength(4);
    expect(textOf(second?.[3]?.content ?? "")).toContain("unchanged, see above");
  });

  it("is saved while its answer comes, so that a crash loses little", async () => {
    let now = 0;
    const { made, session } = await started(
      async (_, signal) => streamOf(["one ", "two ", "three"], { signal, delayMs: 40 }),
      {
        clock: () => (now += 1_500),
      },
    );
    const asking = session.handle(question("a"));
    await until(() => [...made.files.texts.values()].some((text) => text.includes('"answer":"one')));
    expect(made.of("turnEnded")).toEqual([]);
    await asking;
  });

  it("carries the place of the folder", async () => {
    const seen: ChatRequest[] = [];
    const { session } = await started(echo(seen), { place: () => ({ workspace: "app", context: "auto" }) });
    await session.handle(question("a"));
    expect(seen[0]?.place).toEqual({ workspace: "app", context: "auto" });
  });

  it("that is empty is not asked", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("  "));
    expect(made.of("notice")[0]?.text).toBe("Write a question first.");
    expect(made.of("turnStarted")).toEqual([]);
  });

  it("pressed twice is asked once", async () => {
    const seen: ChatRequest[] = [];
    const { session } = await started(echo(seen));
    await Promise.all([session.handle(question("a")), session.handle(question("a"))]);
    expect(seen).toHaveLength(1);
  });

  it("stopped keeps the partial answer", async () => {
    const { made, session } = await started(async (_, signal) =>
      streamOf(["one ", "two ", "three"], { signal, delayMs: 15 }),
    );
    const asking = session.handle(question("a"));
    await until(() => made.of("delta").length > 0);
    await session.handle({ type: "stop" });
    await asking;
    expect(lastEnding(made)).toMatchObject({ stopped: true });
    const [head] = await made.store.heads();
    expect((await made.store.open(head?.id ?? ""))?.turns[0]).toMatchObject({
      answer: expect.stringMatching(/^one/),
      ending: { stopped: true },
    });
    expect(made.mets).toEqual([]);
  });

  it("that fails keeps what was asked, and can be asked again in its place", async () => {
    const seen: ChatRequest[] = [];
    const { made, session } = await started(() =>
      Promise.reject(new Fault("refused", "Nobody listens.", "Start the server.")),
    );
    await session.handle(question("a"));
    const failed = lastTurn(made);
    expect(lastEnding(made)?.fault).toEqual({ message: "Nobody listens.", fix: "Start the server.", command: "check" });
    expect(made.mets[0]).toBeInstanceOf(Fault);
    made.server.chat = echo(seen);
    await session.handle({ type: "retry", turn: failed.id });
    expect(made.of("turnStarted").at(-1)).toMatchObject({ from: failed.id, turn: { question: "a" } });
    expect(seen[0]?.messages).toHaveLength(2);
    expect((await made.store.heads())[0]?.turns).toBe(1);
  });

  it("is not lost where no model is served", async () => {
    const { made, session } = await started(echo());
    made.server.models = [];
    await session.handle(question("a"));
    expect(lastTurn(made).question).toBe("a");
    expect(lastEnding(made)?.fault).toMatchObject({ message: "The server has no model that chats." });
  });

  it("is not lost where the server cannot be asked for its models", async () => {
    const away = new Fault("dns", "The name is not known.", "Look at the address.");
    const { made, session } = await started(echo(), { chatModel: () => Promise.reject(away) });
    await session.handle(question("a"));
    expect(lastEnding(made)?.fault).toMatchObject({ command: "setUp" });
    expect(made.mets).toContain(away);
  });

  it("leaves the box soon although the server is slow to tell its models, and can be stopped then", async () => {
    let slow = false;
    const { made, session } = await started(echo(), {
      chatModel: () => (slow ? new Promise(() => {}) : Promise.resolve(MODEL)),
    });
    slow = true;
    const asking = session.handle(question("a"));
    await until(() => made.of("turnStarted").length > 0);
    await session.handle({ type: "stop" });
    slow = false;
    await asking;
    expect(lastEnding(made)).toMatchObject({ stopped: true });
  });

  it("refused for its length is cut and asked once more", async () => {
    const seen: ChatRequest[] = [];
    const long = "line of code;\n".repeat(500);
    const { made, session } = await started(
      async (request) => {
        seen.push(request);
        if (seen.length === 1) {
          throw new Fault(
            "bad_request",
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in the completion).",
            "",
          );
        }
        return streamOf(["ok"]);
      },
      {},
      { "a.ts": long },
    );
    await session.handle(question("why @file a.ts"));
    expect(seen).toHaveLength(2);
    expect(textOf(seen[1]?.messages[1]?.content ?? "")).toMatch(/only its first \d+ lines/);
    expect(made.of("notice").at(-1)?.text).toMatch(/^Left out, to fit/);
    expect(lastEnding(made)?.fault).toBeUndefined();
  });

  it("that is longer than the model is told so, not sent", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("word ".repeat(20_000)));
    expect(lastEnding(made)?.fault?.message).toContain("8,192 tokens");
    expect(made.timeline.last()?.outcome).toBe("failed");
  });

  it("goes on where it cannot be saved, and says so once the disk is full", async () => {
    const { made, session } = await started(echo());
    made.files.write = () => Promise.reject(new Error("disk full"));
    await session.handle(question("a"));
    expect(lastEnding(made)?.usage).toBeDefined();
    expect(made.logged.join()).toContain("disk full");
  });
});

describe("context", () => {
  it("of chips and of typed mentions is read and sent", async () => {
    const seen: ChatRequest[] = [];
    const { made, session } = await started(echo(seen), {}, { "a.ts": "let a;", "b.ts": "let b;" });
    await session.handle({ type: "addMention", id: "file:/a.ts" });
    await until(() => made.of("mentions").at(-1)?.mentions[0]?.tokens !== undefined);
    await session.handle(question("compare with @file b.ts", ["file:/a.ts"]));
    const sent = textOf(seen[0]?.messages[1]?.content ?? "");
    expect(sent).toContain("### a.ts\n```ts\nlet a;");
    expect(sent).toContain("### b.ts\n```ts\nlet b;");
    expect(sent).toMatch(/compare with @file b\.ts$/);
    expect(lastTurn(made).mentions.map(({ tokens }) => tokens)).toEqual([2, 2]);
    expect(made.of("mentions").at(-1)?.mentions).toEqual([]);
  });

  it("that cannot be read says so on its chip, and the question is asked", async () => {
    const seen: ChatRequest[] = [];
    const { made, session } = await started(echo(seen), {}, {});
    await session.handle(question("why @file src/gone.ts", ["file:/lost.ts"]));
    const [lost, gone] = lastTurn(made).mentions;
    expect(lost?.problem).toContain("cannot be read");
    expect(gone).toMatchObject({ label: "src/gone.ts", problem: expect.stringContaining("There is no file") });
    expect(seen).toHaveLength(1);
  });

  it.each([
    ["@selection", "Nothing is selected"],
    ["@terminal", "No output of a terminal"],
    ["@file", "No file is open"],
    ["@problems", "Nothing was found"],
    ['@symbol "gone"', 'There is no symbol "gone"'],
  ])("that is not there says so: %s", async (text, problem) => {
    const { made, session } = await started(echo());
    await session.handle(question(`why ${text}`));
    expect(lastTurn(made).mentions[0]?.problem).toContain(problem);
  });

  it("that a sentence only seems to name is no mention", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("what does the tag @file mean"));
    expect(lastTurn(made).mentions).toEqual([]);
  });

  it("of documentation is searched for the question, and cited", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("@docs how to stream"));
    expect(made.of("sources")[0]?.sources).toEqual([{ title: "[1] A page", href: "https://docs.example/a" }]);
  });

  it("can be taken away, dropped in and looked at", async () => {
    const { made, session } = await started(echo(), {}, { "a.ts": "x" });
    await session.handle({ type: "drop", uris: ["file:///a.ts", "git:/x"] });
    expect(made.of("mentions").at(-1)?.mentions).toMatchObject([{ id: "file:/a.ts" }]);
    expect(made.of("notice")[0]?.text).toContain("git:/x");
    await session.handle({ type: "openMention", id: "file:/a.ts" });
    expect(made.shown).toEqual(["file:/a.ts"]);
    await session.handle({ type: "removeMention", id: "file:/a.ts" });
    expect(made.of("mentions").at(-1)?.mentions).toEqual([]);
    expect(session.add("nothing")).toBe(false);
  });

  it("suggests while one types; the latest question counts", async () => {
    const { made, session } = await started(echo());
    const first = session.handle({ type: "suggest", query: "a", requestNumber: 1 });
    await session.handle({ type: "suggest", query: "ab", requestNumber: 2 });
    await first;
    expect(made.of("suggestions").map(({ requestNumber }) => requestNumber)).toEqual([2]);
  });

  it("that was a selection is sent again as it was, a file as it is", async () => {
    const seen: ChatRequest[] = [];
    const files: Record<string, string> = { "a.ts": "old a", "b.ts": "old b" };
    const { made, session } = await started(echo(seen), {}, files);
    await session.handle(question("why", ["selection:/a.ts 1-1", "file:/b.ts"]));
    files["a.ts"] = "new a";
    files["b.ts"] = "new b";
    await session.handle({ type: "retry", turn: lastTurn(made).id });
    const sent = textOf(seen[1]?.messages[1]?.content ?? "");
    expect(sent).toContain("old a");
    expect(sent).toContain("new b");
    delete files["b.ts"];
    await session.handle({ type: "retry", turn: lastTurn(made).id });
    expect(textOf(seen[2]?.messages[1]?.content ?? "")).toContain("new b");
  });

  it("shows the question again when reading took long, with what came of it", async () => {
    const { made, session } = await started(echo());
    const read = made.surroundings.read;
    made.surroundings.read = async (id, text, signal) => {
      await new Promise((resolve) => setTimeout(resolve, 450));
      return read(id, text, signal);
    };
    await session.handle(question("@docs a"));
    const [first, second] = made.of("turnStarted");
    expect(first?.turn.sources).toEqual([]);
    expect(second).toMatchObject({ turn: { id: first?.turn.id, sources: [{ href: "https://docs.example/a" }] } });
    expect(second?.from).toBeUndefined();
  });
});

describe("pictures", () => {
  it("are refused by a model that does not see, and the question stays in the box", async () => {
    const { made, session } = await started(echo());
    await session.handle(question("what", [], ["data:image/png;base64,AA"]));
    expect(made.of("notice")[0]?.text).toContain("reads no pictures");
    expect(made.of("turnStarted")).toEqual([]);
    await session.handle(
      question(
        "what",
        [],
        Array.from({ length: 5 }, () => "data:"),
      ),
    );
    expect(made.of("notice")[1]?.text).toContain("at most 4");
  });

  it("go to one that does", async () => {
    const seen: ChatRequest[] = [];
    const { made, session } = await started(echo(seen));
    made.server.models = [{ ...MODEL, role: "vision" }];
    await session.handle(question("what", [], ["data:image/png;base64,AA"]));
    expect(seen[0]?.messages[1]?.content).toMatchObject([{ type: "image_url" }, { type: "text", text: "what" }]);
  });
});

describe("editing a question", () => {
  it("takes away what came after, and offers a copy", async () => {
    const seen: ChatRequest[] = [];
    const { made, session } = await started(echo(seen));
    await session.handle(question("first"));
    const first = lastTurn(made);
    await session.handle(question("second"));
    await session.handle({ type: "edit", turn: first.id, text: "first, better" });
    expect(made.of("turnStarted").at(-1)).toMatchObject({ from: first.id, turn: { question: "first, better" } });
    expect(seen.at(-1)?.messages).toHaveLength(2);
    const action = made.of("notice").at(-1)?.action;
    expect(action?.label).toBe("Keep a copy");
    await session.handle({ type: "act", token: action?.token ?? "" });
    expect((await made.store.heads()).map(({ turns }) => turns).sort()).toEqual([1, 2]);
    await session.handle({ type: "act", token: action?.token ?? "" });
    expect(await made.store.heads()).toHaveLength(2);
    await session.handle({ type: "edit", turn: "gone", text: "x" });
    expect(made.of("turnStarted")).toHaveLength(3);
  });
});
