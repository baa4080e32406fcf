/** The files that a chat may be given: the workspace's, without what the settings and git leave out and without secrets. */

import { realpath } from "node:fs/promises";
import * as vscode from "vscode";
import { Fault } from "../api/fault";
import { PathIndex } from "../context/fuzzy";
import { foldersOf } from "../features/chat/suggest";
import { isSecretPath, judge, Rules, secretIn, type Verdict } from "../features/workspace/rules";

const MOST_FILES = 50_000;
const MOST_BYTES = 1_000_000;
const RECENT = 40;
/** A build makes files all the time: the list is at most this much behind. */
const LISTED_MS = 3_000;
const ALWAYS_OUT = ["**/.git/**", "**/node_modules/**", "**/__pycache__/**", "**/.venv/**"];

export interface Listed {
  readonly files: PathIndex;
  readonly folders: PathIndex;
  uri(path: string): vscode.Uri | undefined;
}

/** Listed once, and again after files came or went. */
export class ChatFiles implements vscode.Disposable {
  #listed: Promise<Listed> | undefined;
  #listedAt = 0;
  #stale = false;
  #recent: string[] = [];
  readonly #disposables: vscode.Disposable[] = [];

  constructor() {
    const forget = (): void => {
      this.#stale = true;
    };
    const watcher = vscode.workspace.createFileSystemWatcher("**/*", false, true, false);
    this.#disposables.push(
      watcher,
      watcher.onDidCreate(forget),
      watcher.onDidDelete(forget),
      vscode.workspace.onDidChangeWorkspaceFolders(() => {
        this.#listed = undefined;
      }),
      vscode.workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration("files.exclude") || event.affectsConfiguration("search.exclude")) forget();
      }),
      vscode.window.onDidChangeActiveTextEditor((editor) => {
        if (editor !== undefined) this.#opened(editor.document.uri);
      }),
    );
    for (const { document } of vscode.window.visibleTextEditors) this.#opened(document.uri);
  }

  dispose(): void {
    vscode.Disposable.from(...this.#disposables).dispose();
  }

  /** Paths, the latest opened first. */
  get recent(): readonly string[] {
    return this.#recent;
  }

  list(): Promise<Listed> {
    if (this.#stale && Date.now() - this.#listedAt > LISTED_MS) this.#listed = undefined;
    if (this.#listed !== undefined) return this.#listed;
    this.#stale = false;
    this.#listedAt = Date.now();
    const listed = this.#list().catch((error: unknown) => {
      this.#listed = undefined;
      throw error;
    });
    this.#listed = listed;
    return listed;
  }

  /** Whether its name says that it holds a key or a password. */
  isSecret(uri: vscode.Uri): boolean {
    return isSecretPath(pathOf(uri));
  }

  /** What the editor shows, saved or not, else what is on disk. Throws a Fault where it must not or cannot be sent. */
  async read(uri: vscode.Uri): Promise<{ readonly text: string; readonly language: string }> {
    const open = vscode.workspace.textDocuments.find((document) => document.uri.toString() === uri.toString());
    const content = open?.getText() ?? (await contentOf(uri));
    // A link is judged by what it leads to as well.
    const real = uri.scheme === "file" ? await realpath(uri.fsPath).catch(() => uri.fsPath) : undefined;
    const why =
      secretIn(pathOf(uri), content) ??
      (real !== undefined && isSecretPath(pathOf(vscode.Uri.file(real)))
        ? "leads to a file that may hold secrets"
        : undefined);
    if (why !== undefined)
      throw new Fault(
        "forbidden",
        `${pathOf(uri)} ${why} and is never sent.`,
        "Copy what is harmless into the question.",
      );
    return {
      text: typeof content === "string" ? content : new TextDecoder().decode(content),
      language: open?.languageId ?? "",
    };
  }

  #opened(uri: vscode.Uri): void {
    if (vscode.workspace.getWorkspaceFolder(uri) === undefined) return;
    const path = pathOf(uri);
    this.#recent = [path, ...this.#recent.filter((each) => each !== path)].slice(0, RECENT);
  }

  async #list(): Promise<Listed> {
    const found = await vscode.workspace.findFiles("**/*", excluded(), MOST_FILES);
    const verdict = await verdicts();
    const uris = new Map<string, vscode.Uri>();
    for (const uri of found) if (verdict(uri) === "") uris.set(pathOf(uri), uri);
    const paths = [...uris.keys()].sort();
    return {
      files: new PathIndex(paths),
      folders: new PathIndex(foldersOf(paths)),
      uri: (path) => uris.get(path) ?? uriOf(path),
    };
  }
}

/** As people know it: relative to the workspace, with the folder's name where several are open. */
export function pathOf(uri: vscode.Uri): string {
  if (uri.scheme === "untitled") return uri.path;
  return vscode.workspace.asRelativePath(uri).replaceAll("\\", "/");
}

/** Back: in the only folder, or in the one that the path begins with. */
export function uriOf(path: string): vscode.Uri | undefined {
  const folders = vscode.workspace.workspaceFolders ?? [];
  const only = folders[0];
  if (only === undefined) return undefined;
  if (folders.length === 1) return vscode.Uri.joinPath(only.uri, path);
  const [name = "", ...rest] = path.split("/");
  const folder = folders.find((each) => each.name === name);
  return folder === undefined ? vscode.Uri.joinPath(only.uri, path) : vscode.Uri.joinPath(folder.uri, rest.join("/"));
}

function excluded(): string {
  const globs = new Set(ALWAYS_OUT);
  for (const name of ["files.exclude", "search.exclude"]) {
    const found = vscode.workspace.getConfiguration().get<Readonly<Record<string, unknown>>>(name, {});
    for (const [glob, on] of Object.entries(found)) if (on === true && !/[{}]/.test(glob)) globs.add(glob);
  }
  return `{${[...globs].join(",")}}`;
}

/** Secrets, and by the `.gitignore` at each folder's top: what is generated is no help in a list. */
async function verdicts(): Promise<(uri: vscode.Uri) => Verdict> {
  const judges = new Map<string, (path: string) => Verdict>();
  for (const { uri } of vscode.workspace.workspaceFolders ?? []) {
    const bytes = await vscode.workspace.fs.readFile(vscode.Uri.joinPath(uri, ".gitignore")).then(
      (found) => Buffer.from(found).toString("latin1"),
      () => undefined,
    );
    judges.set(uri.toString(), judge(Rules.first().enter("", bytes, undefined)));
  }
  return (uri) => {
    const folder = vscode.workspace.getWorkspaceFolder(uri)?.uri;
    const path = uri.path.slice((folder?.path.replace(/\/$/, "").length ?? 0) + 1);
    return judges.get(folder?.toString() ?? "")?.(path) ?? "secret";
  };
}

async function contentOf(uri: vscode.Uri): Promise<Uint8Array> {
  try {
    const { size } = await vscode.workspace.fs.stat(uri);
    if (size > MOST_BYTES)
      throw new Fault("bad_request", `${pathOf(uri)} is larger than 1 MB.`, "Send the lines that matter.");
    return await vscode.workspace.fs.readFile(uri);
  } catch (error) {
    if (error instanceof Fault) throw error;
    throw new Fault("not_found", `${pathOf(uri)} cannot be read.`, "It may have been moved or deleted.");
  }
}
