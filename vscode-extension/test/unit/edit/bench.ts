/** An edit of three lines of a small file in a fake editor, with answers made beforehand. */

import type { ChatRequest, Stream } from "../../../src/api/gateway";
import { Edit } from "../../../src/features/edit/conductor";
import type { Message } from "../../../src/features/edit/trouble";
import type { View } from "../../../src/features/edit/view";
import { Timeline } from "../../../src/features/timeline";
import { fakeGateway, type StreamOptions, streamOf } from "../fakeGateway";
import { FakeEditor } from "./fakeEditor";

export const FILE = ["import a", "", "def f(x):", "    y = x", "    return y", "", "def g():", "    pass", ""];
export const NEW = ["def f(x):", "    return x + 1"];
export const DONE = [...FILE.slice(0, 2), ...NEW, ...FILE.slice(5)].join("\n");
export const BOTH = "import a\n\ndef f(x):\n    y = x\n    return y\n    return x + 1\n\ndef g():\n    pass\n";

interface Bench {
  readonly edit: Edit;
  readonly editor: FakeEditor;
  readonly requests: ChatRequest[];
  readonly messages: Message[];
  readonly views: View[];
  readonly timeline: Timeline;
  readonly met: unknown[];
}

type Answer = readonly string[] | Error | ((signal: AbortSignal) => Stream);

/** An edit of lines 2 to 4 of FILE; each request gets the next answer. */
export function bench(
  answers: readonly Answer[],
  text = FILE.join("\n"),
  eol = "\n",
  options: StreamOptions = {},
): Bench {
  const editor = new FakeEditor(text.replaceAll("\n", eol), eol);
  const lines = text.split("\n");
  const [requests, messages, views, met]: [ChatRequest[], Message[], View[], unknown[]] = [[], [], [], []];
  const timeline = new Timeline();
  const left = [...answers];
  const gateway = fakeGateway({
    chat: async (request, signal) => {
      requests.push(request);
      const answer = left.shift() ?? new Error("no more answers");
      if (answer instanceof Error) throw answer;
      return typeof answer === "function" ? answer(signal) : streamOf(answer, { signal, ...options });
    },
  });
  const edit = new Edit(
    {
      surface: editor,
      gateway: () => gateway,
      model: async () => ({ id: "m", maxLength: 8192, role: "chat" }),
      connection: () => ({ kind: "unknown" }),
      settings: () => ({ instructions: "", maxTokens: 4096 }),
      place: { workspace: "w", path: "a.py" },
      uri: "file:///a.py",
      mac: false,
      timeline,
      now: () => performance.now(),
      // Long ones are limits that no test waits for.
      pause: (milliseconds) => new Promise((resolve) => milliseconds < 1000 && setTimeout(resolve, 5)),
      met: (error) => met.push(error),
      draw: (view) => views.push(view),
      tell: (message) => messages.push(message),
    },
    {
      path: "a.py",
      language: "python",
      before: lines.slice(0, 2),
      selected: lines.slice(2, 5),
      after: lines.slice(5),
      whole: false,
    },
    2,
  );
  editor.listener = (event) => edit.changed(event);
  return { edit, editor, requests, messages, views, timeline, met };
}

export const slowly = (texts: readonly string[]) => (signal: AbortSignal) => streamOf(texts, { signal, delayMs: 10 });
export const soon = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
export const lines = (all: readonly string[]) => all.map((line) => `${line}\n`);
