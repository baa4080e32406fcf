/** The chat's view: its page, the commands that lead there, and what the chat may do in the editor. */

import { randomUUID } from "node:crypto";
import { normalize } from "node:path";
import * as vscode from "vscode";
import { Fault } from "../api/fault";
import { pathAndLines } from "../context/mentions";
import { clean } from "../features/chat/apply";
import type { Acts, Desk, Memory } from "../features/chat/desk";
import { filesIn } from "../features/chat/files";
import { forCursor } from "../features/chat/insert";
import { type ConnectionView, type FolderView, fromPage, type ToPage } from "../features/chat/protocol";
import { ChatSession } from "../features/chat/session";
import { ConversationStore } from "../features/chat/store";
import { Applier } from "./apply";
import { uriOf } from "./chatFiles";
import { chatPlace } from "./chatPlace";
import { EditorSurroundings, openAt, selectionRow } from "./mentions";
import { showPage } from "./page";
import { inform } from "./say";
import type { Services } from "./services";

const VIEW = "aicockpit.chat";
const DRAFT_MS = 500;

export function register(services: Services): vscode.Disposable {
  const view = new ChatView(services);
  const command = (name: string, act: (...given: never[]) => unknown): vscode.Disposable =>
    vscode.commands.registerCommand(`aicockpit.chat.${name}`, act);
  return vscode.Disposable.from(
    view,
    vscode.window.registerWebviewViewProvider(VIEW, view, { webviewOptions: { retainContextWhenHidden: true } }),
    services.connection.onChange(() => void view.session.refresh()),
    services.folders.onChange(() => view.session.tellFolder()),
    command("open", () => view.tell({ type: "focus" })),
    command("new", () => view.show(() => view.session.newChat())),
    command("history", () => view.tell({ type: "showHistory" })),
    command("export", () => view.show(() => view.session.export())),
    command("addSelection", () => view.addSelection()),
    command("addFile", (uri?: vscode.Uri, uris?: readonly vscode.Uri[]) => view.addFiles(uri, uris)),
  );
}

class ChatView implements vscode.WebviewViewProvider, vscode.Disposable {
  readonly session: ChatSession;
  readonly #surroundings: EditorSurroundings;
  readonly #applier: Applier;
  readonly #memory: EditorMemory;
  #page: vscode.Webview | undefined;
  /** What the page must not miss while it is not there. */
  #waiting: ToPage[] = [];

  constructor(private readonly services: Services) {
    this.#surroundings = new EditorSurroundings(services);
    this.#applier = new Applier(this.#surroundings.files);
    this.#memory = new EditorMemory(services.context.workspaceState);
    this.session = new ChatSession(this.#desk());
  }

  dispose(): void {
    void this.session.close();
    this.#memory.flush();
    vscode.Disposable.from(this.#applier, this.#surroundings).dispose();
  }

  resolveWebviewView(view: vscode.WebviewView): void {
    const { webview } = view;
    webview.onDidReceiveMessage((value: unknown) => void this.#heard(value, webview));
    view.onDidDispose(() => {
      if (this.#page === webview) this.#page = undefined;
    });
    showPage(webview, this.services.context.extensionUri, "chat", "AiCockpit");
  }

  /** Shows the view, then tells the page, at once or when it is there. */
  async tell(message: ToPage): Promise<void> {
    await this.show(() => this.#post(message));
  }

  async show(then: () => unknown): Promise<void> {
    await vscode.commands.executeCommand(`${VIEW}.focus`);
    await then();
  }

  async addSelection(): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (editor === undefined || editor.selection.isEmpty) {
      void inform("Select the code first.");
      return;
    }
    const { id } = selectionRow(editor);
    await this.show(() => this.session.add(id));
  }

  async addFiles(uri: vscode.Uri | undefined, uris: readonly vscode.Uri[] | undefined): Promise<void> {
    const active = vscode.window.activeTextEditor?.document.uri;
    const given = uris !== undefined && uris.length > 0 ? uris : [uri ?? active].filter((each) => each !== undefined);
    if (given.length === 0) {
      void inform("Open a file first, or choose one in the explorer.");
      return;
    }
    await this.show(async () => {
      for (const each of given) {
        const id = await this.#surroundings.dropped(each.toString());
        if (id === undefined || !this.session.add(id))
          this.#post({ type: "notice", text: `This cannot be sent along: ${each.path}` });
      }
    });
  }

  async #heard(value: unknown, webview: vscode.Webview): Promise<void> {
    const message = fromPage(value);
    if (message === undefined)
      return this.services.log.warn(`the chat page sent what is not known: ${JSON.stringify(value)?.slice(0, 200)}`);
    if (message.type !== "ready") return this.session.handle(message);
    this.#page = webview;
    await this.session.handle(message);
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const each of waiting) this.#post(each);
  }

  #post(message: ToPage): void {
    if (this.#page !== undefined) void this.#page.postMessage(message);
    else if (["focus", "showHistory", "notice"].includes(message.type))
      this.#waiting = [...this.#waiting, message].slice(-8);
  }

  #desk(): Desk {
    const { services } = this;
    const { context, connection, config, timeline, log } = services;
    const folder = vscode.Uri.joinPath(context.storageUri ?? context.globalStorageUri, "chats").fsPath;
    return {
      get gateway() {
        return connection.gateway;
      },
      timeline,
      store: new ConversationStore(filesIn(folder), (sentence) => {
        log.warn(sentence);
        this.#post({ type: "notice", text: sentence });
      }),
      surroundings: this.#surroundings,
      acts: this.#acts(),
      memory: this.#memory,
      settings: () => ({
        instructions: config.instructions,
        maxTokens: config.chatMaxTokens,
        temperature: config.temperature,
      }),
      models: () => connection.models(),
      chatModel: () => connection.chatModel(),
      connection: () => connectionView(services),
      folder: () => folderView(services),
      place: () => chatPlace(services),
      met: (error) => connection.met(error),
      post: (message) => this.#post(message),
      log: (line) => log.info(`chat: ${line}`),
      now: () => Date.now(),
      clock: () => performance.now(),
      id: () => randomUUID(),
    };
  }

  #acts(): Acts {
    return {
      apply: this.#applier.apply,
      insert,
      run: async (command) => void (await vscode.commands.executeCommand("aicockpit.terminal.propose", { command })),
      copy: async (text) => vscode.env.clipboard.writeText(text),
      openLink,
      saveAs,
      pickModel: async (models, now) => {
        const items = models.map(({ id, maxLength }) => ({
          label: id,
          description: [
            id === now ? "now" : "",
            maxLength === undefined ? "" : `${maxLength.toLocaleString("en")} tokens`,
          ]
            .filter(Boolean)
            .join(", "),
        }));
        return (await vscode.window.showQuickPick(items, { placeHolder: "Which model answers?" }))?.label;
      },
      command: async (name) => void (await vscode.commands.executeCommand(`aicockpit.${name}`)),
    };
  }
}

/** The workspace's state; the draft is written when typing pauses. */
class EditorMemory implements Memory {
  #draft: string | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly state: vscode.Memento) {}

  get(key: "draft" | "model" | "conversation"): string {
    return key === "draft" && this.#draft !== undefined ? this.#draft : this.state.get(`chat.${key}`, "");
  }

  set(key: "draft" | "model" | "conversation", value: string): void {
    if (key !== "draft") return void this.state.update(`chat.${key}`, value);
    this.#draft = value;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), DRAFT_MS);
  }

  flush(): void {
    clearTimeout(this.#timer);
    if (this.#draft !== undefined) void this.state.update("chat.draft", this.#draft);
  }
}

function connectionView({ connection }: Services): ConnectionView {
  const { state } = connection;
  switch (state.kind) {
    case "unknown":
    case "ready":
      return { kind: state.kind, why: "", fix: "" };
    case "no_key":
      return {
        kind: "no_key",
        why: `${connection.gateway.address} wants a key.`,
        fix: "Enter it once; it is kept in the editor's secret store.",
      };
    case "unauthorized":
      return { kind: "unauthorized", why: state.why, fix: "Enter another key." };
    case "offline":
      return { kind: "offline", why: state.why, fix: state.fix };
    case "no_model":
      return { kind: "no_model", why: state.why, fix: "Start a model on the server." };
  }
}

function folderView({ folders }: Services): FolderView | undefined {
  const status = folders.status();
  if (status === undefined) return undefined;
  const share = status.state === "syncing" ? status.sent : status.warm;
  return { name: status.name, state: status.state, why: status.why, ...(share !== undefined && { share }) };
}

async function insert(code: string): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  if (editor === undefined)
    throw new Fault(
      "bad_request",
      "No file is open in an editor.",
      "Open one and put the cursor where the code belongs.",
    );
  const { start } = editor.selection;
  const text = forCursor(code, editor.document.lineAt(start.line).text.slice(0, start.character));
  const done = await editor.edit((edit) => edit.replace(editor.selection, text));
  if (!done) throw new Fault("forbidden", "This file cannot be changed here.", "It may be read-only; copy the code.");
  await vscode.window.showTextDocument(editor.document, editor.viewColumn);
}

async function openLink(href: string): Promise<void> {
  if (/^https?:\/\//i.test(href)) {
    await vscode.env.openExternal(vscode.Uri.parse(href, true));
    return;
  }
  const { path, lines } = pathAndLines(href);
  const inside = clean(path);
  const uri = inside === undefined ? vscode.Uri.file(normalize(path)) : uriOf(inside);
  if (uri === undefined || vscode.workspace.getWorkspaceFolder(uri) === undefined) {
    throw new Fault(
      "forbidden",
      `${path} is not in the workspace.`,
      "Only its files and web addresses are opened from here.",
    );
  }
  await openAt(uri, lines);
}

async function saveAs(name: string, text: string): Promise<boolean> {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
  const uri = await vscode.window.showSaveDialog({
    ...(folder && { defaultUri: vscode.Uri.joinPath(folder, name) }),
    filters: { Markdown: ["md"] },
    title: "Export the chat",
  });
  if (uri === undefined) return false;
  await vscode.workspace.fs.writeFile(uri, new TextEncoder().encode(text));
  return true;
}
