import { describe, expect, it } from "vitest";
import { createGateway } from "../../../src/api/client";
import { Fault } from "../../../src/api/fault";
import type { ChatRequest, Stream } from "../../../src/api/gateway";
import { answer } from "../../../src/features/chat/answer";
import { alternating, type HostMessage } from "../../../src/features/chat/native";
import { ToolCalls, ToolSense } from "../../../src/features/chat/tools";
import { Timeline } from "../../../src/features/timeline";
import { options, serve } from "../api/servers";
import { fakeGateway, streamOf } from "../fakeGateway";

const TOOL = { name: "read", description: "Reads a file.", parameters: { type: "object" } };
const REQUEST: ChatRequest = {
  model: "m",
  messages: [{ role: "user", content: "hi" }],
  maxTokens: 10,
  temperature: 0,
  tools: [TOOL],
};

function messageOf(role: HostMessage["role"], more: Partial<HostMessage>): HostMessage {
  return { role, text: "", images: [], calls: [], results: [], ...more };
}

const call = (index: number, more: object) => ({
  choices: [{ index: 0, delta: { tool_calls: [{ index, ...more }] } }],
});

/** A chat by a server that answers with these events, and what it was sent. */
async function asked(events: readonly object[], finish = "tool_calls") {
  const end = { choices: [{ index: 0, delta: {}, finish_reason: finish }] };
  const server = await serve((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const event of [...events, end]) response.write(`data: ${JSON.stringify(event)}\n\n`);
    response.end("data: [DONE]\n\n");
  });
  try {
    const timeline = new Timeline();
    const answered = await answer(
      {
        gateway: createGateway(() => options(server.url)),
        request: REQUEST,
        signal: new AbortController().signal,
        timeline,
        trace: timeline.begin("chat", "m", "hi"),
        began: 0,
        clock: () => performance.now(),
      },
      () => {},
    );
    return { ...answered, trace: timeline.last(), sent: JSON.parse(String(server.seen[0]?.body)) };
  } finally {
    await server.close();
  }
}

describe("tools on the wire", () => {
  it("are sent, and streamed calls are put together, several of them too", async () => {
    const { uses, ending, sent, trace } = await asked([
      { choices: [{ index: 0, delta: { content: "I look." } }] },
      call(0, { id: "a", type: "function", function: { name: "read", arguments: "" } }),
      call(0, { function: { arguments: '{"path": ' } }),
      call(1, { id: "b", type: "function", function: { name: "now" } }),
      call(0, { function: { arguments: '"x.py"}' } }),
    ]);
    expect(uses).toEqual([
      { id: "a", name: "read", input: { path: "x.py" } },
      { id: "b", name: "now", input: {} },
    ]);
    expect(ending.fault).toBeUndefined();
    expect(trace?.outcome).toBe("shown");
    expect(sent).toMatchObject({ tools: [{ type: "function", function: TOOL }], tool_choice: "auto" });
  });

  it("make an answer without a word", async () => {
    const { uses, ending } = await asked([call(0, { id: "a", function: { name: "now", arguments: "{}" } })]);
    expect([uses.length, ending.fault]).toEqual([1, undefined]);
  });

  it("with arguments that are no JSON object are an error, with the model's words", async () => {
    const broken = [call(0, { id: "a", function: { name: "read", arguments: '{"path": "x' } })];
    const told = (await asked(broken)).ending.fault;
    expect(told?.message).toContain("the tool read with arguments that are no JSON object");
    expect(told?.message).toContain('{"path": "x');
    const cut = (await asked(broken, "length")).ending.fault;
    expect(cut?.message).toContain("cut at its limit");
    expect(cut?.fix).toContain("maxTokens");
    const list = await asked([call(0, { id: "a", function: { name: "read", arguments: "[1]" } })]);
    expect([list.uses, list.ending.fault === undefined]).toEqual([[], false]);
  });

  it("have names, and ids even where the server gives none", () => {
    const calls = new ToolCalls();
    calls.add([{ index: 2, name: "now", text: " " }]);
    calls.add([{ index: 2, name: "now" }]);
    expect(calls.uses(false)).toEqual([{ id: "call_2", name: "now", input: {} }]);
    calls.add([{ index: 3, text: "x".repeat(500) }]);
    expect(() => calls.uses(false)).toThrow(/a tool without a name: “x{120}…”/);
  });
});

describe("a conversation with tools", () => {
  it("goes back as it was: calls with the assistant, results behind them, then what was said", async () => {
    const calls = [
      { id: "a", name: "read", arguments: '{"path":"x.py"}' },
      { id: "b", name: "now", arguments: "{}" },
    ];
    const results = [
      { id: "a", text: "print(1)" },
      { id: "b", text: "noon" },
    ];
    const messages = alternating([
      messageOf("user", { text: "Look" }),
      messageOf("assistant", { text: "I look." }),
      messageOf("assistant", { calls }),
      messageOf("user", { results, text: "Go on" }),
      messageOf("user", { text: "please", images: ["data:x"] }),
    ]);
    expect(messages).toEqual([
      { role: "user", content: "Look" },
      { role: "assistant", content: "I look.", toolCalls: calls },
      { role: "tool", content: "print(1)", toolCallId: "a" },
      { role: "tool", content: "noon", toolCallId: "b" },
      {
        role: "user",
        content: [
          { type: "image_url", image_url: { url: "data:x" } },
          { type: "text", text: "Go on\n\nplease" },
        ],
      },
    ]);
    const server = await serve((_, response) => void response.writeHead(400).end());
    const chat = createGateway(() => options(server.url)).chat(
      { ...REQUEST, messages, toolRequired: true },
      new AbortController().signal,
    );
    await expect(chat).rejects.toThrow();
    const sent = JSON.parse(String(server.seen[0]?.body));
    await server.close();
    expect(sent.tool_choice).toBe("required");
    expect(sent.messages.slice(1, 3)).toEqual([
      {
        role: "assistant",
        content: "I look.",
        tool_calls: [
          { id: "a", type: "function", function: { name: "read", arguments: '{"path":"x.py"}' } },
          { id: "b", type: "function", function: { name: "now", arguments: "{}" } },
        ],
      },
      { role: "tool", content: "print(1)", tool_call_id: "a" },
    ]);
  });
});

describe("results in messages of their own", () => {
  const calls = ["a", "b"].map((id) => ({ id, name: "look", arguments: "{}" }));
  const result = (id: string) => [{ id, text: `saw ${id}` }];
  const tool = (id: string) => ({ role: "tool", content: `saw ${id}`, toolCallId: id });

  it("stand behind their calls, the pictures and words that came with them behind the last one", () => {
    const messages = alternating([
      messageOf("assistant", { calls }),
      messageOf("user", { results: result("a"), images: ["data:x"] }),
      messageOf("system", { text: "Be brief" }),
      messageOf("user", { results: result("b"), images: ["data:y"], text: "Go on" }),
    ]);
    expect(messages.map(({ role }) => role)).toEqual(["assistant", "tool", "tool", "user", "system", "user"]);
    expect(messages.slice(1, 3)).toEqual([tool("a"), tool("b")]);
    const pictures = alternating([
      messageOf("assistant", { calls }),
      messageOf("user", { results: result("a"), images: ["data:x"] }),
      messageOf("user", { results: result("b"), images: ["data:y"] }),
    ]);
    const urls = ["data:x", "data:y"].map((url) => ({ type: "image_url", image_url: { url } }));
    expect(pictures.slice(1)).toEqual([tool("a"), tool("b"), { role: "user", content: urls }]);
  });

  it("stay in their own round", () => {
    const [first, second] = calls.map((one) => messageOf("assistant", { calls: [one] }));
    const messages = alternating([
      first as HostMessage,
      messageOf("user", { results: result("a"), images: ["data:x"] }),
      second as HostMessage,
      messageOf("user", { text: "And?" }),
      messageOf("user", { results: result("b") }),
    ]);
    const rounds = ["assistant", "tool", "user", "assistant", "tool", "user"];
    expect(messages.map(({ role }) => role)).toEqual(rounds);
    expect([messages[1], messages[4]]).toEqual([tool("a"), tool("b")]);
    // Of a conversation whose calls were cut away nothing is moved.
    const cut = [messageOf("assistant", { text: "Hi" }), messageOf("user", { text: "x" })];
    const alone = alternating([...cut, messageOf("user", { results: result("a") })]);
    expect(alone.map(({ role }) => role)).toEqual(["assistant", "user", "tool"]);
  });
});

describe("whether a model may be given tools", () => {
  const model = { id: "m", maxLength: undefined, role: undefined };

  function sensing(chat: () => Promise<Stream>, learnt: () => void = () => {}) {
    let times = 0;
    const time = { now: 0 };
    const sense = new ToolSense(learnt, 20, () => time.now);
    const gateway = fakeGateway({
      chat: () => {
        times += 1;
        return chat();
      },
    });
    const can = (ready?: boolean, id = "m") => sense.can(gateway, { ...model, id, ready });
    return { can, times: () => times, time, sense };
  }

  it("is asked of its server once", async () => {
    const able = sensing(async () => streamOf(["Hi"]));
    expect(await Promise.all([able.can(), able.can()])).toEqual([true, true]);
    expect(able.times()).toBe(1);
    const said = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set';
    const unable = sensing(async () => Promise.reject(new Fault("bad_request", said, "", 400)));
    expect([await unable.can(), await unable.can(), unable.times()]).toEqual([false, false, 1]);
  });

  it("is asked again ten minutes after a no, and when the server was away; a yes stays", async () => {
    let able = false;
    const asking = sensing(async () =>
      able ? streamOf(["Hi"]) : Promise.reject(new Fault("bad_request", "no parser", "", 400)),
    );
    expect(await asking.can()).toBe(false);
    asking.time.now = 10 * 60_000 - 1;
    expect([await asking.can(), asking.times()]).toEqual([false, 1]);
    asking.time.now += 1;
    expect([await asking.can(), asking.times()]).toEqual([false, 2]);
    able = true;
    expect([await asking.can(), asking.times()]).toEqual([false, 2]);
    asking.sense.forget();
    expect([await asking.can(), asking.times()]).toEqual([true, 3]);
    able = false;
    asking.time.now *= 10;
    asking.sense.forget();
    expect([await asking.can(), asking.times()]).toEqual([true, 3]);
  });

  it("is remembered of the newest 200 models", async () => {
    const many = sensing(async () => streamOf(["Hi"]));
    for (let at = 0; at <= 200; at++) await many.can(true, `m${at}`);
    await many.can(true, "m1");
    expect(many.times()).toBe(201);
    await many.can(true, "m0");
    expect(many.times()).toBe(202);
  });

  it("keeps nobody waiting for a busy engine, and tells when it has answered", async () => {
    let answered: (stream: Stream) => void = () => {};
    let learn: () => void = () => {};
    const learnt = new Promise<void>((resolve) => {
      learn = resolve;
    });
    const chat = new Promise<Stream>((resolve) => {
      answered = resolve;
    });
    const busy = sensing(() => chat, learn);
    expect(await busy.can()).toBe(false);
    answered(streamOf(["Hi"]));
    await learnt;
    expect([await busy.can(), busy.times()]).toEqual([true, 1]);
  });

  it("is no until it was found out, and asked again; a model that sleeps is left alone", async () => {
    const away = sensing(async () => Promise.reject(new Fault("refused", "away", "")));
    expect([await away.can(), await away.can(), away.times()]).toEqual([false, false, 2]);
    const asleep = sensing(async () => streamOf(["Hi"]));
    expect([await asleep.can(false), asleep.times()]).toEqual([false, 0]);
  });
});
