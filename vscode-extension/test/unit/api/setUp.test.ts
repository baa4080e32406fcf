import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ConnectionState } from "../../../src/features/states";
import type { Connection, Services } from "../../../src/ui/services";
import { modelServer, type Running, serve } from "./servers";

/** As much of the editor as set-up and connection touch. */
const editor = vi.hoisted(() => {
  type Listener = (value: unknown) => unknown;
  class EventEmitter {
    readonly listeners = new Set<Listener>();
    readonly event = (listener: Listener) => {
      this.listeners.add(listener);
      return { dispose: () => this.listeners.delete(listener) };
    };
    fire(value: unknown): void {
      for (const listener of this.listeners) listener(value);
    }
    dispose(): void {
      this.listeners.clear();
    }
  }
  class Box {
    value = "";
    validationMessage = "";
    password = false;
    prompt = "";
    title = "";
    placeholder = "";
    items: { label: string; description?: string; detail?: string; run?: unknown }[] = [];
    selectedItems: unknown[] = [];
    accept = new EventEmitter();
    hidden = new EventEmitter();
    button = new EventEmitter();
    changed = new EventEmitter();
    onDidAccept = this.accept.event;
    onDidHide = this.hidden.event;
    onDidTriggerButton = this.button.event;
    onDidChangeValue = this.changed.event;
    show(): void {
      shown.push(this);
    }
    hide(): void {
      this.hidden.fire(undefined);
    }
    dispose(): void {}
  }
  const shown: Box[] = [];
  const settings = new Map<string, unknown>();
  const commands = new Map<string, () => Promise<void>>();
  const executed: unknown[][] = [];
  const changed = new EventEmitter();
  const trusted = new EventEmitter();
  const api = {
    EventEmitter,
    ConfigurationTarget: { Global: 1 },
    QuickPickItemKind: { Separator: -1 },
    QuickInputButtons: { Back: "back" },
    Disposable: {
      from: (...all: { dispose(): void }[]) => ({ dispose: () => all.forEach((one) => void one.dispose()) }),
    },
    env: { remoteName: undefined as string | undefined },
    window: {
      createInputBox: () => new Box(),
      createQuickPick: () => new Box(),
      showInformationMessage: vi.fn(),
      showOpenDialog: vi.fn(),
    },
    commands: {
      registerCommand: (name: string, run: () => Promise<void>) => {
        commands.set(name, run);
        return { dispose: () => commands.delete(name) };
      },
      executeCommand: async (...parts: unknown[]) => void executed.push(parts),
    },
    workspace: {
      isTrusted: true,
      workspaceFolders: [{}],
      getConfiguration: (section: string) => ({
        get: (name: string, otherwise?: unknown) => settings.get(`${section}.${name}`) ?? otherwise,
        update: async (name: string, value: unknown) => {
          settings.set(`${section}.${name}`, value);
          changed.fire({ affectsConfiguration: () => true });
        },
      }),
      onDidChangeConfiguration: changed.event,
      onDidGrantWorkspaceTrust: trusted.event,
    },
  };
  return { api, shown, settings, commands, executed, changed, trusted, Box, EventEmitter };
});

vi.mock("vscode", () => editor.api);

const { Config } = await import("../../../src/ui/config");
const { createConnection } = await import("../../../src/ui/connection");
const { register } = await import("../../../src/ui/setUp");

type Box = InstanceType<typeof editor.Box>;

const open: { dispose(): unknown }[] = [];

function begin() {
  const kept = new Map<string, string>();
  const secretsChanged = new editor.EventEmitter();
  const secrets = {
    get: async (name: string) => kept.get(name),
    store: async (name: string, value: string) => {
      kept.set(name, value);
      secretsChanged.fire({ key: name });
    },
    delete: async (name: string) => {
      kept.delete(name);
      secretsChanged.fire({ key: name });
    },
    onDidChange: secretsChanged.event,
  };
  const lines: string[] = [];
  const log = {
    info: (line: string) => lines.push(line),
    error: (...all: string[]) => lines.push(all.join(" ")),
    show: vi.fn(),
  };
  const parts = { context: { secrets }, log, config: new Config() } as unknown as Pick<
    Services,
    "context" | "log" | "config"
  >;
  const connection = createConnection(parts);
  open.push(connection, register({ ...parts, connection } as unknown as Services));
  return {
    kept,
    lines,
    connection,
    run: (name: string) => editor.commands.get(`aicockpit.${name}`)?.() ?? Promise.reject(new Error(name)),
  };
}

async function box(at: number): Promise<Box> {
  return await vi.waitUntil(() => editor.shown[at]);
}

async function type(at: number, text: string): Promise<Box> {
  const one = await box(at);
  one.value = text;
  one.accept.fire(undefined);
  return one;
}

async function finished(at: number): Promise<Box> {
  const list = await box(at);
  await vi.waitUntil(() => list.items.some((item) => item.label === "Steps"), { timeout: 5_000 });
  return list;
}

async function choose(list: Box, label: string): Promise<void> {
  list.selectedItems = [list.items.find((item) => item.label.includes(label))];
  list.accept.fire(undefined);
}

async function reached(connection: Connection, kind: ConnectionState["kind"]): Promise<void> {
  await vi.waitUntil(() => connection.state.kind === kind, { timeout: 5_000 });
}

let server: Running;

beforeEach(async () => {
  server = await serve(modelServer({ key: "aick_secret", fim: "qwen" }));
  editor.api.workspace.isTrusted = true;
  editor.settings.set("aicockpit.url", server.url);
});
afterEach(async () => {
  for (const one of open.splice(0)) one.dispose();
  for (const all of [editor.settings, editor.commands]) all.clear();
  editor.shown.length = 0;
  editor.executed.length = 0;
  editor.api.window.showInformationMessage.mockClear();
  await server.close();
});

describe("set-up", () => {
  it("asks for address and key, checks, and offers to keep the folder warm; the key stays out of settings and log", async () => {
    editor.settings.set("aicockpit.url", "http://127.0.0.1:1");
    const { kept, lines, connection, run } = begin();
    const done = run("setUp");
    const address = await type(0, "not an address");
    expect(address.validationMessage).toContain("is not an address");
    await type(0, `${server.url}/v1/`);
    const key = await type(1, " aick_secret ");
    expect(key.password).toBe(true);
    expect(key.prompt).toContain("aicockpit keys create");
    const list = await finished(2);
    expect(list.placeholder).toBe("Everything works.");
    expect(list.items.filter((item) => item.label.startsWith("$(pass)")).length).toBeGreaterThan(5);
    await choose(list, "Keep this folder warm");
    await done;
    expect(editor.executed).toContainEqual(["aicockpit.workspace.sync"]);
    expect(editor.settings.get("aicockpit.url")).toBe(server.url);
    expect([...kept.values()]).toEqual(["aick_secret"]);
    await reached(connection, "ready");
    expect(editor.executed).toContainEqual(["setContext", "aicockpit.connected", true]);
    expect(`${lines.join()}${JSON.stringify([...editor.settings])}`).not.toContain("secret");
    expect(lines.join("\n")).toContain("ok   Completion");
  });

  it("goes back from the key to the address, and ends without a trace when closed", async () => {
    const { kept, run } = begin();
    const done = run("setUp");
    await type(0, "http://other:1");
    (await box(1)).button.fire("back");
    const again = await box(2);
    expect(again.value).toBe("http://other:1");
    again.hide();
    await done;
    expect(kept.size).toBe(0);
    expect(editor.settings.get("aicockpit.url")).toBe(server.url);
  });

  it("names what fails, and lets it be repaired", async () => {
    const { run, connection } = begin();
    const done = run("check");
    const list = await finished(0);
    expect(list.placeholder).toBe("The server asks for a key.");
    expect(list.items[0]?.label).toContain("Enter the key");
    await choose(list, "Enter the key");
    await type(1, "aick_secret");
    await done;
    await reached(connection, "ready");
  });

  it("stops the check when its list is closed", async () => {
    const { run, lines } = begin();
    const done = run("check");
    (await box(0)).hide();
    await done;
    expect(lines.join()).not.toContain("FAIL");
  });
});

describe("the connection", () => {
  it("asks for a key, takes a new one at once, and forgets it", async () => {
    const { connection, run } = begin();
    const heard: string[] = [];
    connection.onChange((state) => heard.push(state.kind));
    await reached(connection, "no_key");
    expect(await connection.completionModel()).toBeUndefined();
    const wrong = run("setKey");
    await type(0, "wrong");
    (await finished(1)).hide();
    await wrong;
    await reached(connection, "unauthorized");
    const right = run("setKey");
    await type(2, "aick_secret");
    await right;
    await reached(connection, "ready");
    expect((await connection.chatModel())?.id).toBe("coder");
    await run("forgetKey");
    await reached(connection, "no_key");
    expect(heard).toEqual(["no_key", "unauthorized", "ready", "no_key"]);
  });

  it("sends nothing in a folder that is not trusted, until it is", async () => {
    editor.api.workspace.isTrusted = false;
    const { connection } = begin();
    await reached(connection, "offline");
    await expect(connection.gateway.models()).rejects.toMatchObject({ kind: "forbidden" });
    expect(server.seen).toHaveLength(0);
    editor.api.workspace.isTrusted = true;
    editor.trusted.fire(undefined);
    await reached(connection, "no_key");
  });

  it("never sends the key of one address to another", async () => {
    const other = await serve(modelServer());
    const { connection, run } = begin();
    const done = run("setKey");
    await type(0, "aick_secret");
    await done;
    await reached(connection, "ready");
    await editor.api.workspace.getConfiguration("aicockpit").update("url", other.url);
    await vi.waitUntil(() => other.seen.length > 0);
    expect(other.seen.map((one) => one.headers.authorization)).not.toContain("Bearer aick_secret");
    await other.close();
  });
});
