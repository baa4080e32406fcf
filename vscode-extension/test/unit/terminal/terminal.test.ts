import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { ChatRequest } from "../../../src/api/gateway";
import { stepFor, underBox } from "../../../src/features/terminal/confirm";
import { choicesFor } from "../../../src/features/terminal/descriptions";
import { fromBox, hasControls, hiddenIn, toBox } from "../../../src/features/terminal/hidden";
import type { Proposal } from "../../../src/features/terminal/parse";
import { hintsOf, promptFor, shellName } from "../../../src/features/terminal/prompt";
import { propose } from "../../../src/features/terminal/propose";
import { Timeline } from "../../../src/features/timeline";
import { fakeGateway, streamOf } from "../fakeGateway";

const WHERE = {
  platform: "linux",
  shell: "/usr/bin/zsh",
  directory: "src/app",
  files: ["b.txt", "Cargo.toml", "package.json"],
};
const MODEL = { id: "coder", maxLength: 8192, role: "chat" };

describe("promptFor", () => {
  it("begins with the same text whatever is asked", () => {
    const one = promptFor("list files", WHERE, true);
    const other = promptFor(
      "stop the server",
      { platform: "win32", shell: "pwsh.exe", directory: undefined, files: [] },
      true,
    );
    expect(one[0]).toEqual(other[0]);
    expect(one[0]?.content).toContain('{"command": "…", "explanation": "…"}');
  });

  it("tells the place, the tools and the description, the description last", () => {
    expect(promptFor(" list files ", WHERE, true)[1]?.content).toBe(
      "System: Linux\nShell: zsh\nFiles in the project's root: package.json, Cargo.toml\nDirectory: src/app\nDescription: list files",
    );
  });

  it("works without a folder and without a shell", () => {
    const content = promptFor("x", { platform: "plan9", shell: "", directory: undefined, files: [] }, true)[1]?.content;
    expect(content).toBe("System: plan9\nShell: unknown\nDescription: x");
    expect(promptFor("x", { ...WHERE, directory: "" }, true)[1]?.content).toContain("Directory: the project's root");
  });

  it("asks for no explanation where none is wanted", () => {
    expect(promptFor("x", WHERE, false)[0]?.content).not.toContain("explanation");
  });

  it("passes on no name that is not a tool's", () => {
    expect(hintsOf(["salaries-2026.csv", "Makefile", "secret-plan.txt", "requirements-dev.txt"])).toEqual([
      "requirements.txt",
      "Makefile",
    ]);
  });

  it("cuts a description that is no description", () => {
    expect(String(promptFor("x".repeat(10_000), WHERE, true)[1]?.content).length).toBeLessThan(4200);
  });

  it("names shells without their path", () => {
    expect(shellName("C:\\x\\PowerShell.EXE")).toBe("powershell");
  });
});

describe("propose", () => {
  function asking(parts: Partial<Parameters<typeof propose>[0]>) {
    let now = 0;
    const timeline = new Timeline();
    const clock = () => (now += 10);
    const signal = new AbortController().signal;
    const given = {
      model: MODEL,
      timeline,
      description: "list files",
      where: WHERE,
      explain: true,
      signal,
      onDraft: () => {},
      clock,
    };
    return { timeline, given: { gateway: fakeGateway(), ...given, ...parts } };
  }

  it("streams drafts and traces the request", async () => {
    const requests: ChatRequest[] = [];
    const drafts: Proposal[] = [];
    const usage = { prompt: 200, cached: 160, completion: 12 };
    const headers = { "x-aicockpit-context": "none; no workspace", "x-aicockpit-route": "engine-0" };
    const gateway = fakeGateway({
      chat: async (request) => {
        requests.push(request);
        return streamOf(['{"command": "ls', ' -la", "explanation"', ': "Lists."}'], {
          usage,
          headers,
          requestId: "r-1",
        });
      },
    });
    const { timeline, given } = asking({ gateway, onDraft: (draft) => drafts.push(draft) });
    const proposed = await propose(given);
    expect(proposed).toMatchObject({ command: "ls -la", explanation: "Lists.", cut: false });
    expect(drafts.map((draft) => draft.command)).toEqual(["ls", "ls -la", "ls -la"]);
    expect(requests[0]).toMatchObject({ model: "coder", temperature: 0, slot: "terminal", lane: "interactive" });
    expect(requests[0]?.place).toBeUndefined();
    expect(timeline.last("terminal")).toMatchObject({
      ...{
        outcome: "shown",
        requestId: "r-1",
        usage,
        context: "none; no workspace",
        route: "engine-0",
        what: "list files",
      },
      ...{ sentMs: 10, headersMs: 20, firstTokenMs: 30, lastTokenMs: 40 },
    });
  });

  it("is no error when the model has no command", async () => {
    const gateway = fakeGateway({ chat: async () => streamOf(['{"command": "", "explanation": "Needs a browser."}']) });
    const { timeline, given } = asking({ gateway });
    expect(await propose(given)).toMatchObject({ command: "", explanation: "Needs a browser." });
    expect(timeline.last()).toMatchObject({ outcome: "nothing", why: "Needs a browser." });
  });

  it("says that an answer was cut", async () => {
    const gateway = fakeGateway({ chat: async () => streamOf(["ls"], { finish: "length" }) });
    expect((await propose(asking({ gateway }).given)).cut).toBe(true);
  });

  it("traces a fault with its remedy, and throws it", async () => {
    const fault = new Fault("busy", "The server is busy.", "Try again in 5 s.");
    const { timeline, given } = asking({
      gateway: fakeGateway({
        chat: async () => {
          throw fault;
        },
      }),
    });
    await expect(propose(given)).rejects.toBe(fault);
    expect(timeline.last()).toMatchObject({ outcome: "failed", why: "The server is busy. Try again in 5 s." });
  });

  it("calls an abort stopped, not failed", async () => {
    const stop = new AbortController();
    const gateway = fakeGateway({ chat: async () => streamOf(["a", "b"], { signal: stop.signal, delayMs: 1 }) });
    const { timeline, given } = asking({ gateway, signal: stop.signal, onDraft: () => stop.abort() });
    await expect(propose(given)).rejects.toThrow("aborted");
    expect(timeline.last()).toMatchObject({ outcome: "stopped", why: "You stopped it." });
  });
});

describe("hidden characters", () => {
  it("are found by kind", () => {
    expect(hiddenIn("ls -la 'ä' 日本 😀 é")).toEqual([]);
    expect(hiddenIn("a\u200bb\u200cc\u202ed").map((one) => one.part)).toEqual(["⟦U+200B⟧", "⟦U+202E⟧"]);
    expect(hiddenIn("a\nb").map((one) => one.part)).toEqual(["⏎"]);
    expect(hiddenIn("a\ud800").map((one) => one.what)).toEqual(["half a character"]);
  });

  it("come back from the box as they were", () => {
    const texts = [
      "ls",
      "a\nb",
      "a\u202eb\u200b",
      "⏎⟦U+200B⟧",
      "⟦U+41⟧",
      "\u001b[2K\u0000",
      "\u{e0041}x",
      "日本 😀",
      "⟧⟦⟦",
      "\ud800",
    ];
    for (const text of texts) {
      const shown = toBox(text);
      expect(fromBox(shown), JSON.stringify(text)).toBe(text);
      for (const one of ["\n", "\u202e", "\u200b", "\u001b"]) expect(shown).not.toContain(one);
    }
    expect(fromBox("⟦U+FFFFFF⟧")).toBe("⟦U+FFFFFF⟧");
  });

  it("are told from what a terminal obeys", () => {
    expect(hasControls("a\u200bb")).toBe(false);
    for (const text of ["a\nb", "a\tb", "a\u001bb", "a\u009bb", "a\u007fb"]) expect(hasControls(text)).toBe(true);
  });
});

describe("the confirmation", () => {
  it("judges what stands in the box", () => {
    expect(underBox("ls", "posix")).toEqual({ severity: "info", message: "Safe: it only reads. Enter runs it." });
    expect(underBox("touch a", "posix", "Makes a file.")).toEqual({
      severity: "warning",
      message: "Makes a file. Changes something: it makes files or folders: touch a. Enter runs it.",
    });
    expect(underBox("ls⏎rm -rf a", "posix").message).toMatch(/^Dangerous: it .*\. Enter asks once more\.$/);
    expect(underBox("  ", "posix", "No command: needs a browser.").message).toBe(
      "No command: needs a browser. Type a command, or press Escape.",
    );
  });

  it("makes no links of what a model wrote", () => {
    const { message } = underBox("touch '[a](command:b)'", "posix", "See [this](command:c).");
    expect(message).not.toContain("](");
  });

  it("runs what is safe or changes something", () => {
    expect(stepFor("run", "ls", "posix")).toEqual({ do: "run", command: "ls" });
    expect(stepFor("run", "touch a", "posix")).toEqual({ do: "run", command: "touch a" });
    expect(stepFor("run", " ", "posix").do).toBe("nothing");
  });

  it("asks before what is dangerous, with every reason", () => {
    const step = stepFor("run", "sudo rm -rf a", "posix");
    expect(step).toMatchObject({ do: "ask", command: "sudo rm -rf a" });
    expect(step.do === "ask" && step.detail).toBe(
      "sudo rm -rf a\n\n• It runs as the administrator.\n• It deletes folders with all that is in them.",
    );
  });

  it("never types a line break into a terminal", () => {
    expect(stepFor("insert", "rm -rf a", "posix")).toEqual({ do: "insert", command: "rm -rf a" });
    expect(stepFor("insert", "ls⏎make", "posix")).toMatchObject({ do: "copy instead", command: "ls\nmake" });
    expect(stepFor("copy", "ls⏎make", "posix")).toEqual({ do: "copy", command: "ls\nmake" });
  });

  it("cuts a very long command in the question", () => {
    const step = stepFor("run", `rm -rf ${"a".repeat(5000)}`, "posix");
    expect(step.do === "ask" && step.detail.length).toBeLessThan(1200);
  });
});

describe("earlier descriptions", () => {
  it("are offered behind what is typed", () => {
    const history = ["list large files", "stop the server", "list\nusers"];
    expect(choicesFor(history, "").map((one) => one.label)).toEqual([
      "list large files",
      "stop the server",
      "list users",
    ]);
    expect(choicesFor(history, "files list").map((one) => [one.label, one.typed])).toEqual([
      ["files list", true],
      ["list large files", false],
    ]);
    expect(choicesFor(history, "stop the server")).toHaveLength(1);
  });
});
