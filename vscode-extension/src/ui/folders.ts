/** The opened folders and their workspaces on the server: watchers, questions, memory, commands. */

import { createHash as digest } from "node:crypto";
import { join } from "node:path";
import * as vscode from "vscode";
import type { WorkspaceStatus } from "../api/gateway";
import type { FolderStatus } from "../features/states";
import { createHash, type Hash } from "../features/workspace/hash";
import { pathIn, workspaceName } from "../features/workspace/names";
import { type Memory, Sync } from "../features/workspace/sync";
import { choose, inform, warn } from "./say";
import type { Folders, Services } from "./services";

/** What the folders are made of. */
export type FoldersParts = Omit<Services, "folders">;

/** Begins with each trusted folder as soon as the server answers. */
export function createFolders(parts: FoldersParts): Folders & vscode.Disposable {
  return new OpenedFolders(parts);
}

interface Opened {
  readonly folder: vscode.WorkspaceFolder;
  readonly sync: Sync;
  watcher: vscode.Disposable | undefined;
}

const YES = "Yes";
const LATER = "Not Now";
const NEVER = "Never for This Folder";

class OpenedFolders implements Folders, vscode.Disposable {
  readonly onChange: vscode.Event<void>;
  readonly #changes = new vscode.EventEmitter<void>();
  readonly #opened = new Map<string, Opened>();
  readonly #subscriptions: vscode.Disposable[];
  #hash: Promise<Hash> | undefined;
  #synced: boolean | undefined;
  #model: string | undefined;
  #told = new Set<string>();

  constructor(private readonly parts: FoldersParts) {
    this.onChange = this.#changes.event;
    this.#subscriptions = [
      this.#changes,
      vscode.workspace.onDidChangeWorkspaceFolders(() => this.#follow()),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.#follow()),
      vscode.workspace.onDidSaveTextDocument((document) => this.#saved(document.uri)),
      vscode.window.onDidChangeWindowState((state) => {
        if (state.focused) for (const { sync } of this.#opened.values()) sync.nudge();
      }),
      vscode.window.onDidChangeActiveTextEditor(() => {
        if (this.#opened.size > 1) this.#changes.fire();
      }),
      parts.config.onChange(() => this.#follow()),
      parts.connection.onChange(() => this.#follow()),
      vscode.commands.registerCommand("aicockpit.workspace.sync", () => this.#startCommand()),
      vscode.commands.registerCommand("aicockpit.workspace.stop", () => this.#stopCommand()),
    ];
    this.#follow();
  }

  place(uri: vscode.Uri | undefined) {
    const opened = uri === undefined ? undefined : this.#of(uri);
    const workspace = opened?.sync.workspace;
    if (opened === undefined || uri === undefined || workspace === undefined) return undefined;
    const path = pathIn(opened.folder.uri.fsPath, uri.fsPath);
    return path === undefined ? undefined : { workspace, path, context: this.parts.config.context };
  }

  status(): FolderStatus | undefined {
    return this.#current()?.sync.status;
  }

  saw(workspace: WorkspaceStatus): void {
    for (const { sync } of this.#opened.values()) sync.saw(workspace);
  }

  dispose(): void {
    for (const opened of this.#opened.values()) close(opened);
    this.#opened.clear();
    for (const subscription of this.#subscriptions) subscription.dispose();
  }

  /** Makes what is there what should be there. */
  #follow(): void {
    const trusted = vscode.workspace.isTrusted;
    const folders = trusted ? (vscode.workspace.workspaceFolders ?? []) : [];
    const wanted = new Map(folders.map((folder) => [folder.uri.toString(), folder]));
    for (const [key, opened] of this.#opened) {
      if (wanted.has(key)) continue;
      close(opened);
      this.#opened.delete(key);
    }
    for (const [key, folder] of wanted) {
      if (folder.uri.scheme !== "file") this.#tellVirtual(folder);
      else if (!this.#opened.has(key)) this.#opened.set(key, this.#open(folder));
    }
    if (this.parts.connection.state.kind === "ready") {
      void this.#learnModel();
      for (const { sync } of this.#opened.values()) void sync.connected();
    }
    this.#changed();
  }

  #open(folder: vscode.WorkspaceFolder): Opened {
    const { config, connection, context, log } = this.parts;
    const root = folder.uri.fsPath;
    const key = `folder ${folder.uri.toString()}`;
    const storage = context.storageUri?.fsPath;
    const mark = digest("sha256").update(folder.uri.toString()).digest("hex").slice(0, 16);
    const opened: Opened = {
      folder,
      watcher: undefined,
      sync: new Sync({
        folder: root,
        name: () => workspaceName(config.workspaceName(folder.uri), root, this.#namesBefore(folder)),
        gateway: connection.gateway,
        ledger: storage === undefined ? undefined : join(storage, `files-${mark}.txt`),
        hash: () => {
          this.#hash ??= createHash();
          return this.#hash;
        },
        mode: () => config.sync,
        memory: {
          get: () => context.workspaceState.get<Memory>(key),
          set: (memory) => void context.workspaceState.update(key, memory),
        },
        ask: (name) => this.#ask(folder, name),
        model: () => this.#model,
        focused: () => vscode.window.state.focused,
        watch: (on) => {
          opened.watcher?.dispose();
          opened.watcher = on ? this.#watch(opened) : undefined;
        },
        onChange: () => this.#changed(),
        say: (text) => log.warn(`${folder.name}: ${text}`),
        met: (error) => connection.met(error),
      }),
    };
    return opened;
  }

  #watch(opened: Opened): vscode.Disposable {
    const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(opened.folder, "**"));
    const changed = (uri: vscode.Uri): void => {
      const path = pathIn(opened.folder.uri.fsPath, uri.fsPath);
      if (path !== undefined) opened.sync.changed([path]);
    };
    const parts = [watcher, watcher.onDidChange(changed), watcher.onDidCreate(changed), watcher.onDidDelete(changed)];
    return vscode.Disposable.from(...parts);
  }

  #saved(uri: vscode.Uri): void {
    if (uri.scheme !== "file") return;
    const opened = this.#of(uri);
    const path = opened && pathIn(opened.folder.uri.fsPath, uri.fsPath);
    if (opened === undefined || path === undefined) return;
    opened.sync.changed([path]);
    opened.sync.nudge();
  }

  async #ask(folder: vscode.WorkspaceFolder, name: string): Promise<"yes" | "later" | "never"> {
    const { address } = this.parts.connection.gateway;
    const answer = await inform(
      `Keep “${folder.name}” warm on ${address}? Its files go there as workspace ${name}, so that the model knows your code ` +
        "and answers at once. Files that git ignores, secrets and binaries are not sent.",
      YES,
      LATER,
      NEVER,
    );
    return answer === YES ? "yes" : answer === NEVER ? "never" : "later";
  }

  async #startCommand(): Promise<void> {
    const opened = await this.#pick("Keep which folder warm?");
    if (opened === undefined) {
      void inform(this.#whyNone());
      return;
    }
    const state = await this.parts.connection.refresh();
    if (state.kind !== "ready") {
      const why = "why" in state ? state.why : "The server is not set up yet.";
      const setUp = "Set Up";
      const answer = await warn(`The folder cannot be kept warm now. ${why}`, setUp);
      if (answer === setUp) await vscode.commands.executeCommand("aicockpit.setUp");
      return;
    }
    await opened.sync.start();
    const status = opened.sync.status;
    if (status?.state === "failed") void warn(`AiCockpit: ${status.why}`);
  }

  async #stopCommand(): Promise<void> {
    const opened = await this.#pick("Stop keeping which folder warm?");
    if (opened === undefined) return;
    const remove = "Stop and Remove from the Server";
    const stop = "Stop";
    const answer = await choose(
      `Stop keeping “${opened.folder.name}” warm?`,
      "What the server has of it stays there, for a later time, unless you remove it.",
      stop,
      remove,
    );
    if (answer === undefined) return;
    try {
      await opened.sync.stop(answer === remove);
    } catch (error) {
      this.parts.connection.met(error);
      void warn(`AiCockpit: ${error instanceof Error ? error.message : error}`);
    }
  }

  async #pick(title: string): Promise<Opened | undefined> {
    const all = [...this.#opened.values()];
    if (all.length < 2) return all[0];
    const items = all.map((opened) => ({ label: opened.folder.name, description: opened.folder.uri.fsPath, opened }));
    return (await vscode.window.showQuickPick(items, { title }))?.opened;
  }

  #whyNone(): string {
    const folders = vscode.workspace.workspaceFolders ?? [];
    if (folders.length === 0) return "Open a folder first: it is a folder that is kept warm.";
    if (!vscode.workspace.isTrusted) return "This folder is not trusted, so nothing of it is sent.";
    return "This folder is not on a disk of this machine, so it cannot be kept warm; completion and chat work without.";
  }

  #tellVirtual(folder: vscode.WorkspaceFolder): void {
    if (this.#told.has(folder.uri.toString())) return;
    this.#told.add(folder.uri.toString());
    this.parts.log.info(`${folder.name} (${folder.uri.scheme}:) is not on a disk here, so it is not kept warm.`);
  }

  /** Names of the folders before this one: two of one name must not be one workspace. */
  #namesBefore(folder: vscode.WorkspaceFolder): ReadonlySet<string> {
    const taken = new Set<string>();
    for (const other of vscode.workspace.workspaceFolders ?? []) {
      if (other.uri.toString() === folder.uri.toString()) break;
      taken.add(workspaceName(this.parts.config.workspaceName(other.uri), other.uri.fsPath, taken));
    }
    return taken;
  }

  #of(uri: vscode.Uri): Opened | undefined {
    const folder = vscode.workspace.getWorkspaceFolder(uri);
    return folder && this.#opened.get(folder.uri.toString());
  }

  /** The folder that matters now. */
  #current(): Opened | undefined {
    const uri = vscode.window.activeTextEditor?.document.uri;
    const first = (): Opened | undefined => this.#opened.values().next().value;
    return (uri && this.#of(uri)) ?? first();
  }

  async #learnModel(): Promise<void> {
    try {
      this.#model = (await this.parts.connection.completionModel())?.id;
    } catch (error) {
      this.parts.connection.met(error);
    }
  }

  #changed(): void {
    const synced = [...this.#opened.values()].some(({ sync }) => sync.workspace !== undefined);
    if (synced !== this.#synced) {
      this.#synced = synced;
      void vscode.commands.executeCommand("setContext", "aicockpit.synced", synced);
    }
    this.#changes.fire();
  }
}

function close(opened: Opened): void {
  opened.sync.dispose();
  opened.watcher?.dispose();
  opened.watcher = undefined;
}
